-- The rule of `proto/record.rs`, in the same order: sweep, let in, answer.

local MAGIC = 'tenure1'
local HEADER = '<c7I8I4i8I8I8I8I8I4I4I4I8i8'
local ENTRY = '<c16I4I8I8I8i8I2c0I2c0I4c0'
local NEVER = 9007199254740991

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local key = KEYS[1]

local r = { fence = 0, limit = 0, ticket = 0, alarm = NEVER, memory = 0, expires = 0, tomb = 0,
  holders = 0, waiting = 0, graves = 0, weight = 0, head = 0 }
local entries = {}

local value = redis.call('MGET', key)[1]
if value then
  local magic, at = string.sub(value, 1, 7)
  if magic ~= MAGIC then
    return redis.error_reply('TENUREFOREIGN a string lies where a lock record should be')
  end
  magic, r.fence, r.limit, r.ticket, r.alarm, r.memory, r.expires, r.tomb, r.holders, r.waiting, r.graves, r.weight, r.head,
    at = struct.unpack(HEADER, value)
  if r.expires <= now then
    r = { fence = 0, limit = 0, ticket = 0, alarm = NEVER, memory = 0, expires = 0, tomb = 0,
      holders = 0, waiting = 0, graves = 0, weight = 0, head = 0 }
  else
    for _ = 1, r.holders + r.waiting + r.graves do
      local e = {}
      e.id, e.permits, e.since, e.ends, e.fence, e.ticket, e.owner, e.inbox, e.meta, at = struct.unpack(ENTRY, value, at)
      entries[#entries + 1] = e
    end
  end
end

local function expect(ends)
  r.alarm = math.min(r.alarm, ends)
  r.expires = math.max(r.expires, ends + r.memory)
end

local function is_empty() return r.holders == 0 and r.waiting == 0 end

local function forget_soon_if_empty()
  if is_empty() then r.expires = math.max(r.tomb, now + r.memory) end
end

local function find(id)
  for _, e in ipairs(entries) do if e.id == id then return e end end
end

local function head()
  local first
  for _, e in ipairs(entries) do
    if e.permits > 0 and e.fence == 0 and (not first or e.ticket < first.ticket) then first = e end
  end
  return first
end

-- How many claims the owner has, the largest that is in, and its latest fence.
local function standing(owner)
  local count, top, token = 0, 0, 0
  if owner == '' then return count, top, token end
  for _, e in ipairs(entries) do
    if e.owner == owner then
      count = count + 1
      if e.fence > 0 then top = math.max(top, e.permits); token = math.max(token, e.fence) end
    end
  end
  return count, top, token
end

local function remove(gone)
  for i, e in ipairs(entries) do
    if e == gone then
      table.remove(entries, i)
      break
    end
  end
  if gone.permits == 0 then
    r.graves = r.graves - 1
  elseif gone.fence == 0 then
    r.waiting = r.waiting - 1
    if gone.ticket == r.head and r.waiting > 0 then r.head = head().ticket end
  else
    r.holders = r.holders - 1
    local _, top = standing(gone.owner)
    if top < gone.permits then r.weight = r.weight - gone.permits + top end
  end
end

local function fits(owner, permits)
  local _, top = standing(owner)
  return r.weight - top + permits <= r.limit
end

local function enter(e)
  local _, top, token = standing(e.owner)
  if top >= e.permits then
    e.fence = token
  else
    r.fence = math.max(r.fence + 1, now)
    e.fence = r.fence
    r.weight = r.weight + e.permits - top
  end
  expect(e.ends)
  r.holders = r.holders + 1
  entries[#entries + 1] = e
  return e.fence
end

local grants = {}
local function let_in(except)
  while r.waiting > 0 do
    local e = head()
    if not fits(e.owner, e.permits) then break end
    remove(e)
    e.since = now
    enter(e)
    grants[#grants + 1] = e
  end
end

local function busy(place)
  local ahead = 0
  if r.waiting > 0 then ahead = math.max(place - r.head, 0) end
  return { 1, now, ahead, math.max(r.alarm - now, 0) }
end

local function extend(e, ttl)
  e.ends = math.max(e.ends, now + ttl)
  expect(e.ends)
  return { 0, now, e.fence, e.since, e.ends, r.waiting }
end

local function acquire(id, permits, limit, ttl, patience, memory, max, owner, inbox, meta)
  local e = find(id)
  if e and e.permits == 0 then return { 3, now, 3, 0 } end
  if e and e.fence > 0 then
    r.memory = memory
    return extend(e, ttl)
  end
  if not is_empty() and r.limit ~= limit then return { 3, now, 0, r.limit } end
  local count, top = standing(owner)
  if not e and owner ~= '' and count >= max then return { 3, now, 2, 0 } end

  local is_in = top > 0
  if is_empty() then r.limit = limit end
  if (is_in or r.waiting == 0) and fits(owner, permits) then
    r.memory = memory
    if e then remove(e) end
    e = { id = id, permits = permits, since = now, ends = now + ttl, fence = 0, ticket = r.ticket, owner = owner,
      inbox = inbox, meta = meta }
    enter(e)
    return { 0, now, e.fence, e.since, e.ends, r.waiting }
  end

  local first = head()
  if is_in and first and first.owner ~= owner then
    local _, inside = standing(first.owner)
    if inside > 0 then
      if e then remove(e) end
      return { 3, now, 1, 0 }
    end
  end
  local ends = now + patience
  if patience == 0 then
    local reply = busy(e and e.ticket or r.ticket + 1)
    if e then
      remove(e)
      forget_soon_if_empty()
    end
    return reply
  end
  r.memory = memory
  if e and (not is_in or first.owner == owner) then
    e.ends = math.max(e.ends, ends)
    e.inbox = inbox
  else
    local since = e and e.since or now
    if e then remove(e) end
    local place = r.ticket + 1
    if is_in and r.waiting > 0 then place = r.head - 1 end
    r.ticket = math.max(r.ticket, place)
    e = { id = id, permits = permits, since = since, ends = ends, fence = 0, ticket = place, owner = owner, inbox = inbox,
      meta = meta }
    entries[#entries + 1] = e
    if r.waiting == 0 or place < r.head then r.head = place end
    r.waiting = r.waiting + 1
  end
  expect(ends)
  return busy(e.ticket)
end

local function renew(id, ttl)
  local e = find(id)
  if e and e.fence > 0 then return extend(e, ttl) end
  return { 2, now, e and e.permits > 0 and 1 or 2 }
end

local function release(id, bury)
  local e = find(id)
  local was = 2
  if e and e.permits > 0 then
    was = e.fence > 0 and 0 or 1
    remove(e)
  end
  if bury > 0 and not find(id) then
    local ends = now + bury
    entries[#entries + 1] = { id = id, permits = 0, since = 0, ends = ends, fence = 0, ticket = 0, owner = '', inbox = '',
      meta = '' }
    r.graves = r.graves + 1
    r.tomb = math.max(r.tomb, ends)
    expect(ends)
  end
  if was ~= 2 then forget_soon_if_empty() end
  return { 2, now, was }
end

if now >= r.alarm then
  local gone = {}
  r.alarm = NEVER
  for _, e in ipairs(entries) do
    if e.ends <= now then gone[#gone + 1] = e else r.alarm = math.min(r.alarm, e.ends) end
  end
  for _, e in ipairs(gone) do remove(e) end
  forget_soon_if_empty()
end
let_in()
local early = #grants

local reply
local op, id = ARGV[1], ARGV[2]
if op == 'a' then
  local permits, limit, ttl, patience, memory, max = struct.unpack('<I4I4I8I8I8I4', ARGV[3])
  reply = acquire(id, permits, limit, ttl, patience, memory, max, ARGV[4], ARGV[5], ARGV[6])
elseif op == 'n' then
  reply = renew(id, tonumber(ARGV[3]))
else
  reply = release(id, tonumber(ARGV[3]))
end
let_in()

if r.expires <= now then
  redis.call('DEL', key)
else
  local parts = { struct.pack(HEADER, MAGIC, r.fence, r.limit, r.ticket, r.alarm, r.memory, r.expires, r.tomb, r.holders,
    r.waiting, r.graves, r.weight, r.head) }
  for i, e in ipairs(entries) do
    parts[i + 1] = struct.pack(ENTRY, e.id, e.permits, e.since, e.ends, e.fence, e.ticket, #e.owner, e.owner, #e.inbox,
      e.inbox, #e.meta, e.meta)
  end
  redis.call('SET', key, table.concat(parts), 'PXAT', string.format('%d', math.ceil(r.expires / 1000)))
end
for i, e in ipairs(grants) do
  if e.inbox ~= '' and (i > early or e.id ~= id) then
    redis.call('PUBLISH', e.inbox, e.id .. struct.pack('<I8', e.fence))
  end
end
return reply
