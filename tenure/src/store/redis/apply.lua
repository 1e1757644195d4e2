-- The rule of `proto/record.rs` inside the server: sweep, let in, answer, in the same order and section by section.
--
-- KEYS are the keys of locks. For each there are two arguments: what is asked, packed numbers, and by whom, the claim's
-- id or for an acquisition the whole claim; `script.rs` packs them and unpacks the answers. Operations on many keys in
-- one call share the price of the call and of the clock; each stands for itself, and a key may come more than once.
--
-- A record lies under its key in one of two encodings:
--
--   small    a string: HEAD, and an ENTRY for everyone in, waiting or buried
--   crowd    a hash:   h            HEAD and SUMS
--                      e<id>        ENTRY
--                      q<ticket>    the id whose place that is
--                      o<owner>     the ids of the owner's claims, 16 bytes each
--
-- A small one costs one read and one write. One with a crowd costs no more for its size: of everyone in an operation
-- needs to know one sum, of everyone waiting the head's ticket. Only a sweep reads a whole crowd, and `alarm` lets it do
-- so no sooner than somebody's time passes.
--
-- A grave is an entry without permits; who waits has no fence; nobody's owner is the empty text. Times are microseconds,
-- whole numbers below 2^53, and are never left to Lua to print.

local MAGIC = 'tenure\1'
local HEAD = '<c7BI8I8I8I8i8I4'             -- magic, entries, expires, alarm, memory, fence, ticket, limit
local SUMS = '<I4I4I4I8i8I8'                -- holders, waiting, graves, the holders' weight, the head's ticket, last grave
local ENTRY = '<I8I8I8i8c16I4I2c0I2c0I4c0'  -- since, until, fence, ticket; id, permits, owner, inbox, meta
local HEAD_LENGTH = 52
local MANY, FEW = 8, 4                      -- more than MANY entries become a crowd, and FEW are small again
local NEVER = 9007199254740991
local ACQUIRE, RENEW, RELEASE = 1, 2, 3
local HOLDING, WAITING, UNKNOWN = 0, 1, 2
local MISMATCH, DEADLOCK, FULL, BURIED = 0, 1, 2, 3

local KEYS, ARGV, spread = KEYS, ARGV, unpack
local call, pack, unpack, sub, format = redis.call, struct.pack, struct.unpack, string.sub, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function milliseconds(micros) return format('%d', (micros + 999) / 1000) end

-- Puts a small record under its key, or nothing where its time has passed, and returns what lies there now.
local function write(key, text, expires)
  if expires <= now then
    call('DEL', key)
    return false
  end
  call('SET', key, text, 'PXAT', milliseconds(expires))
  return text
end

local function is_ours(text) return text and #text >= HEAD_LENGTH and sub(text, 1, 7) == MAGIC end

-- The commonest cases by themselves: somebody enters where nobody is, and the only one in renews or leaves. `false`:
-- this is none of them. Where all went as it was asked the answer is the time alone.
local function in_short(text, op, span, what, who)
  local entries, expires, alarm, memory, fence, ticket, limit, _ = 0, 0, NEVER, 0, 0, 0, 0
  if text then _, entries, expires, alarm, memory, fence, ticket, limit = unpack(HEAD, text) end
  if op == ACQUIRE then
    local _, remembered, most, of = unpack('<I8I8I4I4', what, 10)
    if entries > 0 or most == 0 then return false end
    if expires <= now then
      expires, alarm, fence, ticket = 0, NEVER, 0, 0
    elseif alarm <= now then
      expires, alarm = now + memory, NEVER
    end
    local ends = now + span
    fence = fence < now and now or fence + 1
    if ends < alarm then alarm = ends end
    if ends + remembered > expires then expires = ends + remembered end
    text = pack('<c7BI8I8I8I8i8I4I8I8I8i8c0', MAGIC, 1, expires, alarm, remembered, fence, ticket, of, now, ends, fence,
      ticket, who)
    return fence == now and now or pack('<BI8I8I8I8I4', 0, now, fence, now, ends, 0), text, expires
  end
  if entries ~= 1 or alarm <= now or sub(text, 85, 100) ~= who then return false end
  local since, ends, token = unpack('<I8I8I8', text, HEAD_LENGTH + 1)
  if token == 0 then return false end
  if op == RELEASE then
    if span > 0 then return false end
    expires = now + memory
    return now, pack(HEAD, MAGIC, 0, expires, alarm, memory, fence, ticket, limit), expires
  end
  if now + span > ends then ends = now + span end
  if ends + memory > expires then expires = ends + memory end
  text = pack(HEAD .. 'I8I8', MAGIC, 1, expires, alarm, memory, fence, ticket, limit, since, ends) .. sub(text, 69)
  return pack('<BI8I8I8I8I4', 0, now, token, since, ends, 0), text, expires
end

-- Any operation on any record. Made when it is first needed.
local function rule()
  local min, max = math.min, math.max

  -- The record at hand, as far as it has been read. In the tables, `false` says that there is certainly nothing.
  local key, crowd, partial             -- whether it lies there as a hash, and whether there may be more of it unread
  local expires, alarm, memory, fence, ticket, limit
  local holders, waiting, graves, weight, head, tomb
  local entries, places, owners         -- by id; ids by ticket; lists of ids by owner
  local changed, dirty                  -- the fields of a crowd that are to be written; whether any entry is
  local room                            -- whether somebody left, so that the head may fit
  local grants

  local function parse(text, at)
    local e = { since = 0, ends = 0, fence = 0, ticket = 0, id = '', permits = 0, owner = '', inbox = '', meta = '' }
    e.since, e.ends, e.fence, e.ticket, e.id, e.permits, e.owner, e.inbox, e.meta, at = unpack(ENTRY, text, at)
    return e, at
  end

  local function split(text)
    local ids = {}
    for at = 1, #text, 16 do ids[#ids + 1] = sub(text, at, at + 15) end
    return ids
  end

  -- What has not been read of a crowd is read by the one of these that wants it.

  local function find(id)
    if entries[id] == nil and partial then
      local text = call('HGET', key, 'e' .. id)
      entries[id] = text and parse(text)
    end
    return entries[id]
  end

  local function place(number)
    if places[number] == nil and partial then places[number] = call('HGET', key, format('q%d', number)) end
    return places[number]
  end

  local function claims_of(owner)
    if not owners[owner] then
      local text = partial and owner ~= '' and call('HGET', key, owner)
      owners[owner] = text and split(text) or {}
    end
    return owners[owner]
  end

  local function read_all()
    local fields = partial and call('HGETALL', key) or {}
    for i = 1, #fields, 2 do
      local field, value = fields[i], fields[i + 1]
      local kind, name = sub(field, 1, 1), sub(field, 2)
      if kind == 'e' and entries[name] == nil then entries[name] = parse(value) end
      if kind == 'q' and places[tonumber(name)] == nil then places[tonumber(name)] = value end
      if kind == 'o' and not owners[field] then owners[field] = split(value) end
    end
    partial = false
  end

  -- The largest claim of the owner's that is in, and its latest token; zero where it is not in.
  local function standing(owner)
    local permits, token = 0, 0
    for _, id in ipairs(claims_of(owner)) do
      local e = find(id)
      if e.fence > 0 then permits, token = max(permits, e.permits), max(token, e.fence) end
    end
    return permits, token
  end

  -- -- who comes and who goes ------------------------------------------------------------------------------------

  local function note(field, name, value)
    dirty = true
    if crowd then changed[field .. name] = value end
  end

  local function put(e)
    entries[e.id] = e
    note('e', e.id, e)
    if e.permits == 0 then
      graves, tomb = graves + 1, max(tomb, e.ends)
    elseif e.fence == 0 then
      if waiting == 0 or e.ticket < head then head = e.ticket end
      waiting, places[e.ticket] = waiting + 1, e.id
      note('q', format('%d', e.ticket), e.id)
    else
      holders, weight = holders + 1, weight + max(0, e.permits - standing(e.owner))
    end
    if e.owner ~= '' then
      local ids = claims_of(e.owner)
      ids[#ids + 1] = e.id
      note('', e.owner, ids)
    end
  end

  local function leave(e)
    entries[e.id] = false
    note('e', e.id, false)
    if e.owner ~= '' then
      local ids = claims_of(e.owner)
      for i = 1, #ids do
        if ids[i] == e.id then
          table.remove(ids, i)
          break
        end
      end
      note('', e.owner, #ids > 0 and ids)
    end
    if e.permits == 0 then
      graves = graves - 1
    elseif e.fence == 0 then
      waiting, places[e.ticket], room = waiting - 1, false, true
      note('q', format('%d', e.ticket), false)
      if e.ticket == head and waiting > 0 then
        repeat head = head + 1 until place(head)
      end
    else
      holders, weight, room = holders - 1, weight - max(0, e.permits - standing(e.owner)), true
    end
  end

  -- Notes that somebody's time passes then.
  local function expect(ends)
    alarm, expires = min(alarm, ends), max(expires, ends + memory)
  end

  local function is_empty() return holders == 0 and waiting == 0 end

  local function forget_soon_if_empty()
    if is_empty() then expires = max(tomb, now + memory) end
  end

  -- -- 1. sweep --------------------------------------------------------------------------------------------------

  local function sweep()
    if now < alarm then return end
    read_all()
    alarm = NEVER
    for _, e in pairs(entries) do
      if e and e.ends <= now then leave(e) elseif e then alarm = min(alarm, e.ends) end
    end
    forget_soon_if_empty()
  end

  -- -- 2. let in -------------------------------------------------------------------------------------------------

  -- Whether a claim fits beside everyone in. Callers see to everyone ahead.
  local function fits(owner, permits) return weight - standing(owner) + permits <= limit end

  -- Puts a claim among the holders, under a token of its own, or of its owner's where it asks for nothing new.
  local function enter(e)
    local permits, token = standing(e.owner)
    if permits < e.permits then
      fence = max(fence + 1, now)
      token = fence
    end
    e.fence = token
    expect(e.ends)
    put(e)
  end

  -- Where nobody left, the head fits no better than it did.
  local function let_in()
    while room and waiting > 0 do
      local e = find(place(head))
      if not fits(e.owner, e.permits) then break end
      leave(e)
      e.since = now
      enter(e)
      grants[#grants + 1] = e
    end
    room = false
  end

  -- -- 3. answer -------------------------------------------------------------------------------------------------

  local function held(e) return pack('<BI8I8I8I8I4', 0, now, e.fence, e.since, e.ends, waiting) end
  local function gone(was) return pack('<BI8B', 2, now, was) end
  local function refused(why, what) return pack('<BI8BI4', 3, now, why, what or 0) end

  local function busy(number)
    local ahead = waiting > 0 and max(0, number - head) or 0
    return pack('<BI8I4I8', 1, now, ahead, max(0, alarm - now))
  end

  local function extend(e, ttl)
    e.ends = max(e.ends, now + ttl)
    expect(e.ends)
    note('e', e.id, e)
    return held(e)
  end

  local function wait(e, old, is_in, patience, remembered)
    local ahead = waiting > 0 and find(place(head))
    if is_in and ahead and ahead.owner ~= e.owner and standing(ahead.owner) > 0 then
      if old then leave(old) end
      return refused(DEADLOCK)
    end
    if patience == 0 then
      local answer = busy(old and old.ticket or ticket + 1)
      if old then
        leave(old)
        forget_soon_if_empty()
      end
      return answer
    end
    memory = remembered
    e.ends = now + patience
    expect(e.ends)
    if old and (not is_in or ahead.owner == e.owner) then
      old.ends, old.inbox = max(old.ends, e.ends), e.inbox
      note('e', old.id, old)
      return busy(old.ticket)
    end
    -- An owner that is in stands at the front, everyone else at the back.
    if old then
      e.since = old.since
      leave(old)
    end
    e.ticket = is_in and waiting > 0 and head - 1 or ticket + 1
    ticket = max(ticket, e.ticket)
    put(e)
    return busy(e.ticket)
  end

  local function acquire(e, ttl, patience, remembered, most, of)
    local old = find(e.id)
    if old and old.permits == 0 then return refused(BURIED) end
    if old and old.fence > 0 then
      memory = remembered
      return extend(old, ttl)
    end
    if not is_empty() and limit ~= of then return refused(MISMATCH, limit) end
    if not old and e.owner ~= '' and #claims_of(e.owner) >= most then return refused(FULL) end

    local is_in = standing(e.owner) > 0
    if is_empty() then limit = of end
    if (is_in or waiting == 0) and fits(e.owner, e.permits) then
      memory = remembered
      if old then leave(old) end
      enter(e)
      return held(e)
    end
    return wait(e, old, is_in, patience, remembered)
  end

  local function renew(id, ttl)
    local e = find(id)
    if e and e.fence > 0 then return extend(e, ttl) end
    return gone(e and e.permits > 0 and WAITING or UNKNOWN)
  end

  local function release(id, bury)
    local e, was = find(id), UNKNOWN
    local buried = e and e.permits == 0
    if e and not buried then
      was = e.fence > 0 and HOLDING or WAITING
      leave(e)
    end
    if bury > 0 and not buried then
      put(parse(pack(ENTRY, 0, now + bury, 0, 0, id, 0, 0, '', 0, '', 0, '')))
      expect(now + bury)
    end
    if was ~= UNKNOWN then forget_soon_if_empty() end
    return gone(was)
  end

  -- -- the record under its key ------------------------------------------------------------------------------------

  local function clear()
    crowd, partial, dirty, room = false, false, false, false
    expires, alarm, memory, fence, ticket, limit = 0, NEVER, 0, 0, 0, 0
    holders, waiting, graves, weight, head, tomb = 0, 0, 0, 0, 0, 0
    entries, places, owners, changed = {}, {}, {}, {}
  end

  -- Reads a record, of a crowd only what the claim needs, and says how its header reads.
  local function load(text, id)
    clear()
    if not text then return '' end
    local header, at, e = text, HEAD_LENGTH + 1, nil
    if text == true then
      local fields = call('HMGET', key, 'h', 'e' .. id)
      header, entries[id] = fields[1], fields[2] and parse(fields[2])
      if not is_ours(header) then return nil end
      holders, waiting, graves, weight, head, tomb = unpack(SUMS, header, at)
      crowd, partial = true, true
    end
    local _
    _, _, expires, alarm, memory, fence, ticket, limit = unpack(HEAD, header)
    while not crowd and at <= #text do
      e, at = parse(text, at)
      put(e)
    end
    dirty = false
    if expires <= now then clear() end
    return crowd and header or sub(header, 1, HEAD_LENGTH)
  end

  local function pack_field(value)
    if type(value) == 'string' then return value end
    if not value.id then return table.concat(value) end
    return pack(ENTRY, value.since, value.ends, value.fence, value.ticket, value.id, value.permits, #value.owner,
      value.owner, #value.inbox, value.inbox, #value.meta, value.meta)
  end

  local function pack_head(count)
    return pack(HEAD, MAGIC, count, expires, alarm, memory, fence, ticket, limit)
  end

  local function save_small(before, text)
    read_all()
    local parts = { pack_head(holders + waiting + graves) }
    if parts[1] == before and not dirty then return text end
    for _, e in pairs(entries) do
      if e then parts[#parts + 1] = pack_field(e) end
    end
    return write(key, table.concat(parts), expires)
  end

  local function send(command, words)
    for from = 1, #words, 1000 do call(command, key, spread(words, from, min(from + 999, #words))) end
  end

  local function save_crowd(before)
    local header = pack_head(0) .. pack(SUMS, holders, waiting, graves, weight, head, tomb)
    if header == before and not dirty then return end
    if not crowd then
      call('DEL', key)
      for id, e in pairs(entries) do changed['e' .. id] = e or nil end
      for number, id in pairs(places) do changed[format('q%d', number)] = id or nil end
      for owner, ids in pairs(owners) do changed[owner] = #ids > 0 and ids or nil end
    end
    local set, del = { 'h', header }, {}
    for field, value in pairs(changed) do
      if value then
        set[#set + 1], set[#set + 2] = field, pack_field(value)
      else
        del[#del + 1] = field
      end
    end
    send('HSET', set)
    send('HDEL', del)
    call('PEXPIREAT', key, milliseconds(expires))
  end

  -- The one place that pushes. A push is a courtesy, and must not fail what has been written.
  local function publish(first, id)
    for i, e in ipairs(grants) do
      -- Who asks needs no telling, least of all one that has just left.
      if e.inbox ~= '' and (i > first or e.id ~= id) then
        redis.pcall('PUBLISH', e.inbox, pack('<c16I8', e.id, e.fence))
      end
    end
  end

  return function(at, text, op, span, what, who)
    key, grants = at, {}
    local id = sub(who, 1, 16)
    local before = load(text, id)
    if not before then return nil end
    sweep()
    let_in()
    local early, answer = #grants, nil
    if op == ACQUIRE then
      answer = acquire(parse(pack('<I8I8I8i8', now, now + span, 0, ticket) .. who), span, unpack('<I8I8I4I4', what, 10))
    elseif op == RENEW then
      answer = renew(id, span)
    else
      answer = release(id, span)
    end
    let_in()
    if expires > now and holders + waiting + graves > (crowd and FEW or MANY) then
      save_crowd(before)
      text = true
    elseif expires > now or text then
      text = save_small(before, text)
    end
    publish(early, id)
    return answer, text
  end
end

-- -- each operation --------------------------------------------------------------------------------------------------

local foreign = { err = 'TENUREFOREIGN what lies under the key is no lock record of a version known here' }

-- What lies there: the text of a small record, `true` for a crowd, `false` for nothing; `nil` is not ours.
local function kind_of(key)
  local kind = call('TYPE', key).ok
  if kind == 'none' then return false end
  return kind == 'hash' or nil
end

local texts, latest, answers, any = call('MGET', spread(KEYS)), {}, {}, nil
for i = 1, #KEYS do
  local key, what, who = KEYS[i], ARGV[2 * i - 1], ARGV[2 * i]
  local text, answer = latest[key], nil
  if text == nil then
    text = texts[i] or kind_of(key)
    if text and text ~= true and not is_ours(text) then text = nil end
  end
  if text ~= nil then
    local op, span = unpack('<BI8', what)
    local value, expires
    if text ~= true then answer, value, expires = in_short(text, op, span, what, who) end
    if answer then
      value = write(key, value, expires)
    else
      any = any or rule()
      answer, value = any(key, text, op, span, what, who)
    end
    latest[key] = value
  end
  answers[i] = answer or foreign
end
if #KEYS == 1 then return answers[1] end
return answers
