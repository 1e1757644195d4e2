-- The rule of `proto/record.rs` inside the server: sweep, let in, answer, in the same order and section by section. It
-- goes on where `short.lua` ends, with the operations that are still to be answered; the loop at the end carries them out.

-- The record at hand. `e` holds entries by id, `q` ids by ticket, `o` lists of ids by owner: of a small record all, of a
-- crowd as much as was read (`partial`), and `false` where there is certainly nothing. `changed` is what has to be
-- written of a crowd; `room` says that somebody left, so that the head may fit.
local r

local function parse(text, at)
  local ends, since, fence, ticket, id, permits, owner, rest, behind = struct.unpack(ENTRY, text, at)
  return { since = since, ends = ends, fence = fence, ticket = ticket, id = id, permits = permits, owner = owner,
    rest = rest }, behind
end

local function unwrap(kind, text)
  if kind == 'e' then return (parse(text)) end
  if kind == 'q' then return text end
  local ids = {}
  for id in string.gmatch(text, '................') do ids[#ids + 1] = id end
  return ids
end

local function get(kind, name)
  local known = r[kind][name]
  if known == nil and r.partial then
    local text = redis.call('HGET', r.key, kind .. name)
    known = text and unwrap(kind, text)
    r[kind][name] = known
  end
  return known
end

local function set(kind, name, value)
  r[kind][name], r.dirty = value, true
  if r.crowd then r.changed[kind .. name] = value end
end

local function read_all()
  local fields = r.partial and redis.call('HGETALL', r.key) or {}
  for i = 1, #fields, 2 do
    local kind, name = string.sub(fields[i], 1, 1), string.sub(fields[i], 2)
    if kind == 'q' then name = tonumber(name) end
    if kind ~= 'h' and r[kind][name] == nil then r[kind][name] = unwrap(kind, fields[i + 1]) end
  end
  r.partial = false
end

-- The largest claim of the owner's that is in, its latest token, and all its claims, in and waiting.
local function standing(owner)
  if owner == '' then return 0, 0 end
  local permits, token, ids = 0, 0, get('o', owner) or {}
  for i = 1, #ids do
    local e = get('e', ids[i])
    if e.fence > 0 then permits, token = math.max(permits, e.permits), math.max(token, e.fence) end
  end
  return permits, token, ids
end

local function put(e)
  local permits, _, ids = standing(e.owner)
  set('e', e.id, e)
  if e.owner ~= '' then
    ids[#ids + 1] = e.id
    set('o', e.owner, ids)
  end
  if e.permits == 0 then
    r.graves, r.tomb = r.graves + 1, math.max(r.tomb, e.ends)
  elseif e.fence == 0 then
    if r.waiting == 0 or e.ticket < r.head then r.head = e.ticket end
    r.waiting = r.waiting + 1
    set('q', e.ticket, e.id)
  else
    r.holders, r.weight = r.holders + 1, r.weight + math.max(0, e.permits - permits)
  end
end

-- The first place behind the head: gaps are stepped over, or where they are longer than the queue, all of it is read.
local function next_place()
  for ticket = r.head + 1, r.head + r.waiting do
    if get('q', ticket) then return ticket end
  end
  read_all()
  local first = math.huge
  for ticket, id in pairs(r.q) do first = id and math.min(first, ticket) or first end
  return first
end

local function leave(e)
  set('e', e.id, false)
  if e.owner ~= '' then
    local left = {}
    for _, id in ipairs(get('o', e.owner)) do
      if id ~= e.id then left[#left + 1] = id end
    end
    set('o', e.owner, #left > 0 and left)
  end
  if e.permits == 0 then
    r.graves = r.graves - 1
  elseif e.fence == 0 then
    r.waiting, r.room = r.waiting - 1, true
    set('q', e.ticket, false)
    if e.ticket == r.head and r.waiting > 0 then r.head = next_place() end
  else
    r.holders, r.weight, r.room = r.holders - 1, r.weight - math.max(0, e.permits - standing(e.owner)), true
  end
end

-- Until when the last fence is remembered if the lock is last used then.
local function remembered_after(last) return math.max(last, r.fence + 1) + r.memory end

-- Notes that a claim's time passes then.
local function expect(ends)
  r.alarm, r.expires = math.min(r.alarm, ends), math.max(r.expires, remembered_after(ends))
end

local function forget_soon_if_empty()
  if r.holders == 0 and r.waiting == 0 then r.expires = math.max(r.tomb, remembered_after(now)) end
end

-- -- 1. sweep ----------------------------------------------------------------------------------------------------------

local function sweep()
  if now < r.alarm then return end
  read_all()
  local in_use = r.holders + r.waiting > 0
  r.alarm = 2^53 - 1 -- never
  for _, e in pairs(r.e) do
    if e and e.ends <= now then leave(e) elseif e then r.alarm = math.min(r.alarm, e.ends) end
  end
  if in_use then forget_soon_if_empty() end
end

-- -- 2. let in ---------------------------------------------------------------------------------------------------------

-- A token later than any so far, and not before `least`.
local function mint(least)
  r.fence = math.max(r.fence + 1, least)
  return r.fence
end

-- Puts a claim among the holders, under a token of its own, not before `least`, or of its owner's where it asks for nothing
-- new.
local function enter(e, least)
  local permits, token = standing(e.owner)
  e.fence = permits < e.permits and mint(least) or token
  expect(e.ends)
  put(e)
end

-- Where nobody left, the head fits no better than it did.
local function let_in(grants)
  while r.room and r.waiting > 0 do
    local e = get('e', get('q', r.head))
    if r.weight - standing(e.owner) + e.permits > r.limit then break end
    leave(e)
    e.since = now
    enter(e, now)
    grants[#grants + 1] = e
  end
  r.room = false
end

-- -- 3. answer ---------------------------------------------------------------------------------------------------------

local function held(e) return struct.pack(HELD, 'H', e.fence, e.since, e.ends, r.waiting) end
local function gone(was) return 'G' .. was end
local function refused(why) return struct.pack('<c1c1d', 'R', why, r.limit) end

local function busy(ticket)
  local ahead = r.waiting > 0 and math.max(0, ticket - r.head) or 0
  return struct.pack('<c1dd', 'B', ahead, math.max(0, r.alarm - now))
end

local function extend(e, ttl)
  e.ends = math.max(e.ends, now + ttl)
  expect(e.ends)
  set('e', e.id, e)
  return held(e)
end

local function wait(e, old, is_in, patience, memory)
  local head = is_in and r.waiting > 0 and get('e', get('q', r.head))
  if head and head.owner ~= e.owner and standing(head.owner) > 0 then
    if old then leave(old) end
    return refused('d') -- deadlock
  end
  if patience == 0 then
    if old then leave(old) end
    return busy(old and old.ticket or r.ticket + 1)
  end
  r.memory = memory
  expect(now + patience)
  if old and (not is_in or head.owner == e.owner) then
    -- The rest begins with the inbox and its length.
    local new, known = struct.unpack('<I2', e.rest), struct.unpack('<I2', old.rest)
    old.rest = string.sub(e.rest, 1, 2 + new) .. string.sub(old.rest, 3 + known)
    old.ends = math.max(old.ends, now + patience)
    set('e', old.id, old)
    return busy(old.ticket)
  end
  -- An owner that is in stands at the front, everyone else at the back.
  if old then leave(old) end
  e.since, e.ends = old and old.since or now, math.max(old and old.ends or 0, now + patience)
  e.ticket = is_in and r.waiting > 0 and r.head - 1 or r.ticket + 1
  r.ticket = math.max(r.ticket, e.ticket)
  put(e)
  return busy(e.ticket)
end

local function acquire(who, ttl, patience, memory, most, limit, proposed)
  local id, permits, owner, rest = struct.unpack('<c16dI2c0I4c0', who)
  local e = { since = now, ends = now + ttl, fence = 0, ticket = r.ticket, id = id, permits = permits, owner = owner,
    rest = rest }
  local old = get('e', id)
  if old and old.permits == 0 then return refused('b') end -- buried
  if old and old.fence > 0 then
    r.memory = memory
    if proposed > r.fence then old.fence, r.fence = proposed, proposed end
    return extend(old, ttl)
  end
  local is_empty = r.holders == 0 and r.waiting == 0
  if not is_empty and r.limit ~= limit then return refused('m') end -- mismatch
  local mine, _, ids = standing(owner)
  if not old and owner ~= '' and #ids >= most then return refused('f') end -- full

  local is_in = mine > 0
  if is_empty then r.limit = limit end
  if (is_in or r.waiting == 0) and r.weight - mine + permits <= limit then
    r.memory = memory
    if old then leave(old) end
    enter(e, proposed > 0 and proposed or now)
    return held(e)
  end
  return wait(e, old, is_in, patience, memory)
end

-- Refuses the id for that long, or for as long as it is refused already.
local function bury_id(id, bury)
  if bury == 0 then return end
  local grave, ends = get('e', id), now + bury
  if grave then leave(grave) end
  put({ since = 0, ends = math.max(ends, grave and grave.ends or 0), fence = 0, ticket = 0, id = id, permits = 0,
    owner = '', rest = '\0\0' })
  r.alarm, r.expires = math.min(r.alarm, ends), math.max(r.expires, ends)
end

-- Takes over the token under which a holder was followed by another one without our knowledge.
local function catch_up(e, fence)
  -- A second's worth of hand-overs may be ahead of a clock that was set back.
  if e and e.fence > 0 and fence > r.fence and fence <= math.max(now, r.fence + 1000000) then
    e.fence, r.fence = fence, fence
    set('e', e.id, e)
  end
end

local function renew(id, ttl, fence)
  local e = get('e', id)
  catch_up(e, fence)
  if e and e.fence > 0 then return extend(e, ttl) end
  return gone(e and e.permits > 0 and 'w' or 'u')
end

local function release(id, bury, fence)
  local e, was = get('e', id), 'u' -- unknown
  catch_up(e, fence)
  if e and e.permits > 0 then
    was = e.fence > 0 and 'h' or 'w' -- holding, waiting
    leave(e)
  end
  bury_id(id, bury)
  if was ~= 'u' then forget_soon_if_empty() end
  return gone(was)
end

local function hand_over(who, ttl, proposed, bury, from)
  local id, _, owner, rest = struct.unpack('<c16dI2c0I4c0', who)
  local heir, old = get('e', id), get('e', from)
  if heir and heir.permits == 0 then return refused('b') end -- buried
  if heir and heir.fence > 0 then
    if proposed > r.fence then heir.fence, r.fence = proposed, proposed end
    return extend(heir, ttl)
  end
  if not old or old.fence == 0 then return gone('u') end
  local _, _, ids = standing(old.owner)
  -- Alone, it leaves as much room as the heir needs, and nobody is overtaken.
  if ids and #ids > 1 then return busy(r.ticket + 1) end
  leave(old)
  if heir then leave(heir) end
  bury_id(from, bury)
  local e = { since = now, ends = now + ttl, fence = mint(proposed > 0 and proposed or now), ticket = old.ticket, id = id,
    permits = old.permits, owner = owner, rest = rest }
  expect(e.ends)
  put(e)
  return held(e)
end

-- -- the record under its key --------------------------------------------------------------------------------------------

local function wrap(kind, value)
  if kind == 'q' then return value end
  if kind == 'o' then return table.concat(value) end
  return struct.pack(ENTRY, value.ends, value.since, value.fence, value.ticket, value.id, value.permits, #value.owner,
    value.owner, #value.rest, value.rest)
end

local function load(key, text, own, id)
  r = { key = key, crowd = own ~= nil, partial = own ~= nil, changed = {}, dirty = false, room = false,
    e = {}, q = {}, o = {}, expires = 0, alarm = 0, memory = 0, fence = 0, ticket = 0, limit = 0,
    holders = 0, waiting = 0, graves = 0, weight = 0, head = 0, tomb = 0 }
  local at, e, _ = #BLANK + 1, nil, nil
  _, _, r.memory, r.fence, r.ticket, r.limit, r.alarm, r.expires = struct.unpack(HEAD, text)
  if r.crowd then
    r.holders, r.waiting, r.graves, r.weight, r.head, r.tomb = struct.unpack(SUMS, text, at)
    r.e[id] = own and parse(own)
  end
  while not r.crowd and at <= #text do
    e, at = parse(text, at)
    put(e)
  end
  r.dirty = false
end

-- Writes what changed of a crowd, or all of it where it was small so far; `head` is its header.
local function save_crowd(head)
  if not r.crowd then
    redis.call('DEL', r.key)
    for kind in string.gmatch('eqo', '.') do
      for name, value in pairs(r[kind]) do r.changed[kind .. name] = value or nil end
    end
  end
  local set, del = { 'h', head }, {}
  for field, value in pairs(r.changed) do
    if value then
      set[#set + 1], set[#set + 2] = field, wrap(string.sub(field, 1, 1), value)
    else
      del[#del + 1] = field
    end
  end
  -- As many at a time as Lua can pass on.
  for at = 1, #set, 1000 do redis.call('HSET', r.key, spread(set, at, math.min(at + 999, #set))) end
  for at = 1, #del, 1000 do redis.call('HDEL', r.key, spread(del, at, math.min(at + 999, #del))) end
  redis.call('PEXPIREAT', r.key, till(r.expires, r.memory))
end

local function save_small(head)
  if r.expires <= now then return redis.call('DEL', r.key) end
  read_all()
  local parts = { head }
  for _, e in pairs(r.e) do
    if e then parts[#parts + 1] = wrap('e', e) end
  end
  redis.call('SET', r.key, table.concat(parts), 'PXAT', till(r.expires, #parts > 1 and r.memory))
end

-- Whether the key is in a slot that a cluster is moving elsewhere. There a missing key cannot be looked at, and so no key
-- that was deleted can be made again: a small record must not become a crowd.
local function is_leaving() return redis.pcall('TYPE', r.key .. ':').err end

-- More than 4 entries become a crowd, and 2 are small again: from there on the one costs less than the other. Where it
-- cannot be written now, it says so, and nothing is.
local function save(text)
  local count = r.holders + r.waiting + r.graves
  local many = count > (r.crowd and 2 or 4)
  if many and not r.crowd and is_leaving() then
    if count > 254 then return redis.error_reply('TRYAGAIN the slot of a lock with a crowd is being moved') end
    many = false
  end
  local head = struct.pack(HEAD, MAGIC, many and 255 or count, r.memory, r.fence, r.ticket, r.limit, r.alarm, r.expires)
  if many then head = head .. struct.pack(SUMS, r.holders, r.waiting, r.graves, r.weight, r.head, r.tomb) end
  if not r.dirty and head == string.sub(text, 1, #head) then return end
  if many then save_crowd(head) else save_small(head) end
end

-- Carries out one operation, and says what its answer is.
local function carry_out(it)
  local key, what, who, text, own = KEYS[it.i], ARGV[2 * it.i - 1], ARGV[2 * it.i], it.text, it.own
  local id, grants = sub(who, 1, 16), {}
  if it.twice then text, own = call('MGET', key)[1], nil end
  if not text then text, own = look(key, id) end
  if not text or #text < #BLANK or sub(text, 1, 7) ~= MAGIC then
    return redis.error_reply('TENUREFOREIGN what lies under the key is no lock record of a version known here')
  end
  if unpack('<d', text, 49) <= now then text, own = BLANK, nil end
  load(key, text, own, id)
  sweep()
  let_in(grants)
  local early, op, span, fence = #grants, unpack('<Bdd', what)
  local answer, from
  if op == ACQUIRE then
    answer = acquire(who, span, unpack('<ddddd', what, 10))
  elseif op == RENEW then
    answer = renew(id, span, fence)
  elseif op == RELEASE then
    answer = release(id, span, fence)
  else -- a hand-over
    from = sub(what, 26, 41)
    answer = hand_over(who, span, fence, unpack('<d', what, 18), from)
  end
  let_in(grants)
  local unsaved = save(text)
  if unsaved then return unsaved end
  -- A push is a courtesy, and must not fail what has been written. Who asks needs no telling, nor does who has just left.
  for n, e in ipairs(grants) do
    local inbox = unpack('<I2c0', e.rest)
    if inbox ~= '' and (n > early or e.id ~= id and e.id ~= from) then redis.pcall('PUBLISH', inbox, pack('<c16d', e.id, e.fence)) end
  end
  return answer
end

if not seen then
  local answer = carry_out(later[1])
  return type(answer) == 'table' and answer or pack('<dc0', now, answer)
end
-- What fails at one record, which somebody has damaged, say, concerns nobody else who shares the call.
for _, it in ipairs(later) do
  local is_done, answer = pcall(carry_out, it)
  if not is_done and type(answer) ~= 'table' then
    answer = redis.error_reply('ERR the script failed at this record: ' .. tostring(answer))
  end
  answers[it.i + 1] = answer
end
return answers
