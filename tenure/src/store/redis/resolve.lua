#!lua flags=allow-oom
-- Settles a transaction for good. KEYS: its record. ARGV: until when a commit of it may come, in microseconds of this
-- server's clock, and whether to write the record again.
--
-- What was decided is the answer. Where nothing was, a tombstone is left in the record's place, so that a commit which is
-- still under way is refused: 'A'. Past the time for commits, whatever was decided is forgotten: 'F'.

local done = redis.call('MGET', KEYS[1])[1]
if done then
  if ARGV[2] == '1' then redis.call('SET', KEYS[1], done, 'KEEPTTL') end
  return done
end
local time, limit = redis.call('TIME'), tonumber(ARGV[1])
local left = limit - (time[1] * 1000000 + time[2])
if left < 0 then return 'F' end
-- A minute longer than anything could come.
redis.call('SET', KEYS[1], 'A', 'PX', string.format('%d', left / 1000 + 60000))
return 'A'
