-- Writes or forgets one entry, if it is of the version that the caller has seen: '' where there is none.
local key, expected, value, keep = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local version = redis.call('HGET', key, 'v') or ''
if version ~= expected then return 0 end
if not value then return redis.call('DEL', key) end
local next = string.format('%d', (tonumber(version) or 0) + 1)
redis.call('HSET', key, 'v', next, 'd', value)
if keep == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, keep) end
return tonumber(next)
