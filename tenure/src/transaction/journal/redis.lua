-- Writes or forgets one entry, if it is of the version that the caller has seen: '' where there is none. KEYS[1] is the
-- entry, KEYS[2] the set of those that are kept until they are forgotten: an id too many in it does no harm.
local key, open, id, expected, value, keep = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- Fails before anything is written where something else lies there.
redis.call('SISMEMBER', open, id)
local version = redis.call('HGET', key, 'v') or ''
if version ~= expected then return 0 end
if not value then
  redis.call('DEL', key)
  return redis.call('SREM', open, id) + 1
end
local next = string.format('%d', (tonumber(version) or 0) + 1)
if keep == '' then redis.call('SADD', open, id) end
redis.call('HSET', key, 'v', next, 'd', value)
if keep == '' then
  redis.call('PERSIST', key)
else
  redis.call('PEXPIRE', key, keep)
  redis.call('SREM', open, id)
end
return tonumber(next)
