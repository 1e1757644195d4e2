-- What lies under a lock's key, and the server's clock: { seconds, microseconds, value }. The value is false where there
-- is nothing, a string for a small record, an array of fields and values for a large one; `script.rs` decodes both.

local time = redis.call('TIME')
local value = redis.call('MGET', KEYS[1])[1]
if not value then
  local kind = redis.call('TYPE', KEYS[1]).ok
  if kind == 'hash' then
    value = redis.call('HGETALL', KEYS[1])
  elseif kind ~= 'none' then
    return redis.error_reply('TENUREFOREIGN a ' .. kind .. ' lies where a lock record should be')
  end
end
return { time[1], time[2], value }
