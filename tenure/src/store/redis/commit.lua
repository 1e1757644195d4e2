#!lua
-- The fenced commit: who holds the locks writes, all or nothing. `commit.rs` packs what is asked and unpacks the answer.
--
--   KEYS   the transaction's record, the records of its locks, the keys whose values are looked at, all other keys
--   ARGV   HEAD and a CLAIM for each lock; how many milliseconds the record is kept; the checks and the writes, three
--          bytes each: a key's number and the kind of check, or how many words follow; then the words of all checks, and
--          of all writes, each of which begins with its command
--
-- The answer is what the record says: 'C', or a letter for what stood against it and the key or lock that it is about.
-- What is decided is never decided again, so the same may be asked any number of times.
--
-- A script does not roll back. So nothing is written before it is certain that every write will be carried out: the locks
-- are held, the values and types are as the commands want them, and this user may run each of them. The server sees to the
-- rest before it runs a script with a first line like this one's: memory, replicas, disk, slots. Where a slot is on the
-- move, the record, which is not there yet, has all of it refused.

local HEAD = '<dBI2I2' -- until when a commit may come, whether to write the record again, how many locks, how many values
local CLAIM = '<c16d'  -- the claim's id, its fence
local EQUAL, ABSENT, INTEGER, KIND = 1, 2, 3, 4

local KEYS, ARGV, spread = KEYS, ARGV, unpack
local call, pcall, may = redis.call, redis.pcall, redis.acl_check_cmd
local byte, sub, find = string.byte, string.sub, string.find
local pack, unpack, format, max = struct.pack, struct.unpack, string.format, math.max

local head, keep, checks, writes = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local limit, again, locks, values, place = unpack(HEAD, head)
local texts = call('MGET', spread(KEYS, 1, 1 + locks + values))
if texts[1] then
  -- Replicas are asked what they have of this connection's last write.
  if again > 0 then call('SET', KEYS[1], texts[1], 'KEEPTTL') end
  return texts[1]
end
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
-- Past this, a record may have been there and gone.
if now > limit then return 'T' end

-- What a lock's record says of a claim: where its entry begins, the text that it is in, and the latest fence. The encodings
-- are those of `short.lua`.
local function entry(key, text, id)
  if text then
    if sub(text, 1, 7) ~= 'tenure2' then return end
    local at = 57
    while at <= #text do
      if sub(text, at + 32, at + 47) == id then return at, text, (unpack('<d', text, 17)) end
      local owner = unpack('<I2', text, at + 56)
      at = at + 62 + owner + unpack('<I4', text, at + 58 + owner)
    end
  elseif call('TYPE', key).ok == 'hash' then
    local crowd = call('HMGET', key, 'h', 'e' .. id)
    if crowd[1] and crowd[2] then return 1, crowd[2], unpack('<d', crowd[1], 17), crowd[1] end
  end
end

-- Whether one whole number is at most another, both in decimal as the server writes them.
local function at_most(a, b)
  local down, beneath = byte(a) == 45, byte(b) == 45 -- '-'
  if down ~= beneath then return down end
  if #a ~= #b then return (#a < #b) ~= down end
  return a == b or (a < b) ~= down
end

local at, behind = 5, nil

-- What stands against it; `behind` is left with the locks that have to be told a fence.
local function refusal()
  for n = 2, 1 + locks do
    local id, fence, after = unpack(CLAIM, head, place)
    local start, text, latest, crowd = entry(KEYS[n], texts[n], id)
    place = after
    if not start then return 'L' .. KEYS[n] end
    local ends, _, token = unpack('<ddd', text, start)
    -- Who waits has no fence, and an id that was buried has none.
    if token == 0 or ends <= now then return 'L' .. KEYS[n] end
    if token ~= fence then
      -- Handed on where it is held, and nobody was granted it since. As far as in `apply.lua`, and kept
      -- as long as there.
      if fence <= latest or fence > max(now, latest + 1000000) then return 'O' .. KEYS[n] end
      local record = crowd or text
      local memory, expires = unpack('<d', record, 9), unpack('<d', record, 49)
      expires = max(expires, max(ends, fence + 1) + memory)
      local first, step = sub(record, 1, 16) .. pack('<d', fence) .. sub(record, 25, 48) .. pack('<d', expires), memory + 1000000
      local till = format('%d', (expires - expires % step + step + 999) / 1000)
      local rest = sub(text, start, start + 15) .. pack('<d', fence) .. sub(text, start + 24)
      behind = behind or {}
      if crowd then
        behind[#behind + 1] = { 'HSET', KEYS[n], 'h', first .. sub(record, 57), 'e' .. id, rest }
        behind[#behind + 1] = { 'PEXPIREAT', KEYS[n], till }
      else
        behind[#behind + 1] = { 'SET', KEYS[n], first .. sub(text, 57, start - 1) .. rest, 'PXAT', till }
      end
    end
  end
  for p = 1, #checks, 3 do
    local low, high, kind = byte(checks, p, p + 2)
    local n, word = low + 256 * high, ARGV[at]
    local key, value = KEYS[n], texts[n]
    at = at + 1
    if kind == EQUAL then
      if value ~= word then return 'X' .. key end
    elseif kind == ABSENT then
      if value or call('TYPE', key).ok ~= 'none' then return 'X' .. key end
    elseif kind == KIND then
      local is = call('TYPE', key).ok
      if is ~= word and is ~= 'none' then return 'W' .. key end
    else
      local most = ARGV[at]
      at = at + 1
      if not value then
        if call('TYPE', key).ok ~= 'none' then return 'W' .. key end
        value = '0'
      end
      if not (find(value, '^-?[1-9]%d*$') or value == '0') or #value > 20 then return 'N' .. key end
      if not (at_most(word, value) and at_most(value, most)) then return 'N' .. key end
    end
  end
  local word = at
  for p = 1, #writes, 3 do
    local low, high, n = byte(writes, p, p + 2)
    local key = KEYS[low + 256 * high]
    if not may(ARGV[word], key, spread(ARGV, word + 1, word + n)) then return 'P' .. ARGV[word] .. ' ' .. key end
    word = word + n + 1
  end
end

-- It outlives the time for a commit, also where the clock was set back meanwhile.
keep = format('%d', max(keep, (limit - now) / 1000 + 1))

local why = refusal()
if why then
  call('SET', KEYS[1], why, 'PX', keep)
  return why
end
-- From here on nothing can fail. Should it all the same, that is what the record says, for as much as was written stays.
call('SET', KEYS[1], 'C', 'PX', keep)
local answer
for _, words in ipairs(behind or {}) do
  answer = pcall(spread(words))
  if type(answer) == 'table' and answer.err then break end
end
for p = 1, #writes, 3 do
  if type(answer) == 'table' and answer.err then break end
  local low, high, n = byte(writes, p, p + 2)
  local key = KEYS[low + 256 * high]
  if n == 1 then
    answer = pcall(ARGV[at], key, ARGV[at + 1])
  else
    answer = pcall(ARGV[at], key, spread(ARGV, at + 1, at + n))
  end
  at = at + n + 1
end
if type(answer) == 'table' and answer.err then
  why = 'B' .. answer.err
  call('SET', KEYS[1], why, 'PX', keep)
end
return why or 'C'
