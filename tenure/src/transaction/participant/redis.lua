-- One step of a participant. KEYS[1] is a hash for each lock: `fence` the newest token, `open` how many shares are not to be
-- forgotten yet, and under each transaction's id its share: a letter for the state (s, c, r), 1 where it may be forgotten,
-- the token, a space, the work.
--
-- A script does not roll back: all that can fail is tried first.
local key, step, id, fence, work = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local WEEK = 7 * 24 * 3600 * 1000
local LIMIT = 2 ^ 53

local function split(share)
  local state, done, token, rest = string.match(share, '^(%a)(%d)(%d+) (.*)$')
  return state, done == '1', tonumber(token), rest
end

local newest = tonumber(redis.call('HGET', key, 'fence') or '0')
local state, finished, staged
local share = redis.call('HGET', key, id)
if share then
  local _
  state, finished, _, staged = split(share)
end

-- What would come of the commands, by what is there and what the ones before them leave: nil, or what is wrong.
local function fault(ops)
  local kinds, numbers = {}, {}
  local function kind_of(name)
    if not kinds[name] then kinds[name] = redis.call('TYPE', name).ok end
    return kinds[name]
  end
  local wanted = { take = 'string', add = 'string', set = 'string', ['hash-set'] = 'hash', ['set-add'] = 'set', push = 'list' }
  for _, op in ipairs(ops) do
    local is, want = kind_of(op.key), wanted[op.op]
    if op.op == 'del' then
      kinds[op.key], numbers[op.key] = 'none', 0
    elseif not want then
      return 'no command is called ' .. tostring(op.op)
    elseif is ~= want and is ~= 'none' and op.op ~= 'set' then
      return op.key .. ' is a ' .. is .. ' and not a ' .. want
    elseif op.op == 'set' then
      kinds[op.key], numbers[op.key] = 'string', tonumber(op.value) or false
    else
      kinds[op.key] = want
      if want == 'string' then
        local number = numbers[op.key]
        if number == nil then number = tonumber(redis.call('GET', op.key) or '0') end
        if not number or number ~= math.floor(number) then return op.key .. ' is not a whole number' end
        if op.op == 'take' and number < op.by then return op.key .. ' has not enough: ' .. string.format('%d', number) end
        number = op.op == 'take' and number - op.by or number + op.by
        if math.abs(number) >= LIMIT then return op.key .. ' would be too large a number' end
        numbers[op.key] = number
      end
    end
  end
end

local function carry_out(ops)
  for _, op in ipairs(ops) do
    if op.op == 'take' then redis.call('DECRBY', op.key, string.format('%d', op.by))
    elseif op.op == 'add' then redis.call('INCRBY', op.key, string.format('%d', op.by))
    elseif op.op == 'set' then redis.call('SET', op.key, op.value)
    elseif op.op == 'del' then redis.call('DEL', op.key)
    elseif op.op == 'hash-set' then redis.call('HSET', op.key, op.field, op.value)
    elseif op.op == 'set-add' then redis.call('SADD', op.key, op.member)
    elseif op.op == 'push' then redis.call('RPUSH', op.key, op.value) end
  end
end

local function put(letter, done, rest)
  redis.call('HSET', key, id, letter .. done .. string.format('%d', fence) .. ' ' .. rest)
end

-- As long as anybody may ask, it stays; then a week more, for what may be under way.
local function open(by)
  if redis.call('HINCRBY', key, 'open', by) > 0 then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, WEEK) end
end

if step == 'prepare' then
  if state == 's' or state == 'c' then return { 'prepared' } end
  if state == 'r' then return { 'rolled-back' } end
  if newest > fence then return { 'stale', string.format('%d', newest) } end
  local old = {}
  if newest < fence then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      if #all[i] == 32 then
        local theirs, done, token = split(all[i + 1])
        if token < fence and theirs == 's' then return { 'in-doubt', all[i] } end
        if token < fence and done then old[#old + 1] = all[i] end
      end
    end
  end
  local ops = cjson.decode(work)
  -- What is reserved is gone when it comes to the commit.
  local both = {}
  for _, op in ipairs(ops.reserve) do both[#both + 1] = op end
  for _, op in ipairs(ops.commit) do both[#both + 1] = op end
  local wrong = fault(both)
  if wrong then return { 'unable', wrong } end
  carry_out(ops.reserve)
  redis.call('HSET', key, 'fence', string.format('%d', fence))
  put('s', '0', work)
  for _, gone in ipairs(old) do redis.call('HDEL', key, gone) end
  open(1)
  return { 'prepared' }
end

if step == 'commit' or step == 'rollback' then
  local letter = step == 'commit' and 'c' or 'r'
  if state == letter then return { 'done' } end
  if state == 's' then
    local ops = cjson.decode(staged)[step]
    local wrong = fault(ops)
    if wrong then return { 'unable', wrong } end
    carry_out(ops)
    put(letter, '0', '')
    return { 'done' }
  end
  if state then return { 'heuristic', state == 'c' and 'commit' or 'roll-back' } end
  if step == 'commit' then return { 'heuristic', 'lose' } end
  -- A prepare that comes late is refused for its token, or for the tombstone.
  if newest <= fence then
    put('r', '0', '')
    open(1)
  end
  return { 'done' }
end

if step == 'forget' and state and state ~= 's' then
  if fence < newest then redis.call('HDEL', key, id) else put(state, '1', '') end
  if not finished then open(-1) end
end
return { 'done' }
