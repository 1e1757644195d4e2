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

-- The command for one of the work.
local function command(op)
  local by = op.by and string.format('%d', op.by)
  if op.op == 'take' then return { 'DECRBY', op.key, by } end
  if op.op == 'add' then return { 'INCRBY', op.key, by } end
  if op.op == 'set' then return { 'SET', op.key, op.value } end
  if op.op == 'del' then return { 'DEL', op.key } end
  if op.op == 'hash-set' then return { 'HSET', op.key, op.field, op.value } end
  if op.op == 'set-add' then return { 'SADD', op.key, op.member } end
  if op.op == 'push' then return { 'RPUSH', op.key, op.value } end
end

-- A number as Redis counts with it: no other text for the same one will do. nil for what is none.
local function whole(text)
  local number = tonumber(text)
  if number and string.format('%d', number) == text then return number end
end

-- What would come of the commands, by what is there and what the ones before them leave: nil, or what is wrong.
local WANTED = { take = 'string', add = 'string', set = 'string', del = 'any', ['hash-set'] = 'hash', ['set-add'] = 'set',
  push = 'list' }
local function fault(ops)
  local kinds, numbers = {}, {}
  for _, op in ipairs(ops) do
    local name, want = op.key, WANTED[op.op]
    if not want then return 'no command is called ' .. tostring(op.op) end
    if not redis.acl_check_cmd(unpack(command(op))) then return 'this user may not ' .. op.op .. ' ' .. name end
    kinds[name] = kinds[name] or redis.call('TYPE', name).ok
    if op.op == 'del' then
      kinds[name], numbers[name] = 'none', 0
    elseif op.op == 'set' then
      kinds[name], numbers[name] = 'string', whole(op.value) or false
    elseif kinds[name] ~= want and kinds[name] ~= 'none' then
      return name .. ' is a ' .. kinds[name] .. ' and not a ' .. want
    else
      kinds[name] = want
      if want == 'string' then
        local number = numbers[name]
        if number == nil then number = whole(redis.call('GET', name) or '0') end
        if not number then return name .. ' is not a whole number' end
        if op.op == 'take' and number < op.by then return name .. ' has not enough: ' .. string.format('%d', number) end
        number = op.op == 'take' and number - op.by or number + op.by
        if math.abs(number) >= LIMIT then return name .. ' would be too large a number' end
        numbers[name] = number
      end
    end
  end
end

local function carry_out(ops)
  for _, op in ipairs(ops) do redis.call(unpack(command(op))) end
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
  -- What is reserved is gone when it comes to the commit, or is there to be given back.
  for _, later in ipairs({ ops.commit, ops.rollback }) do
    local both = {}
    for _, op in ipairs(ops.reserve) do both[#both + 1] = op end
    for _, op in ipairs(later) do both[#both + 1] = op end
    local wrong = fault(both)
    if wrong then return { 'unable', wrong } end
  end
  -- First the note, for which this user may lack the right, then what it is about.
  redis.call('HSET', key, 'fence', string.format('%d', fence))
  put('s', '0', work)
  for _, gone in ipairs(old) do redis.call('HDEL', key, gone) end
  open(1)
  carry_out(ops.reserve)
  return { 'prepared' }
end

if step == 'commit' or step == 'rollback' then
  local letter = step == 'commit' and 'c' or 'r'
  if state == letter then return { 'done' } end
  if state == 's' then
    local ops = cjson.decode(staged)[step]
    local wrong = fault(ops)
    if wrong then return { 'unable', wrong } end
    put(letter, '0', '')
    carry_out(ops)
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
