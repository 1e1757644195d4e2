-- What every call begins with, and the commonest operations in short; `apply.lua`, the rule itself, is its second half.
--
-- KEYS are the keys of locks. For each there are two arguments: what is asked, packed numbers, and by whom, the claim's
-- id or for an acquisition or hand-over the whole claim; `script.rs` packs them and unpacks the answers. Operations on
-- many keys in one call share the price of the call and of the clock; each stands for itself, and a key may come more
-- than once.
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
-- A grave is an entry without permits; who waits has no fence; nobody's owner is the empty text. Numbers are doubles, the
-- one kind that Lua has: times in microseconds are exact in them, but never let Lua print one.

local MAGIC = 'tenure2'
local HEAD = '<c7Bdddddd'         -- magic, how many entries, memory, fence, ticket, limit, alarm, expires
local SUMS = '<dddddd'            -- holders, waiting, graves, the holders' weight, the head's ticket, the latest grave
local ENTRY = '<ddddc16dI2c0I4c0' -- until, since, fence, ticket; id, permits, owner, rest: the inbox and the meta
local HELD = '<c1dddd'            -- 'H', fence, since, until, waiting
local BLANK = 'tenure2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\255\255\255\255\255\255?C\0\0\0\0\0\0\0\0'
-- MAGIC and how many entries, as one number: nobody, a single one, a crowd.
local NOBODY, SINGLE, CROWD = 1.0233269179619559e-307, 6.7064752895554745e-303, -5.0462131074085253e+304
local ACQUIRE, RENEW, RELEASE = 1, 2, 3
local SECOND = 1000000

local KEYS, ARGV, spread = KEYS, ARGV, unpack
local call, try, pack, unpack, sub, format = redis.call, redis.pcall, struct.pack, struct.unpack, string.sub, string.format
local max = math.max
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

-- When the server drops a record: once it is over, or where somebody is in, at the next multiple of its memory and a second.
-- So most renewals need not set their key's expiry anew.
local function till(expires, memory)
  if memory then expires = expires - expires % (memory + SECOND) + memory + SECOND end
  return format('%d', (expires + 999) / 1000)
end

-- What lies under a key that is no string: nothing, or the header of a crowd and the claim's own entry, or something else.
local function look(key, id)
  local kind = call('TYPE', key).ok
  if kind == 'hash' then return spread(call('HMGET', key, 'h', 'e' .. id)) end
  return kind == 'none' and BLANK
end

-- Somebody enters where nobody is, or tries to where somebody is; the only one in renews or leaves; one of a crowd renews.
-- Nothing here makes a function, for that costs the server more than to call it, and few make a text, for Lua looks at each
-- byte of a new one; and nothing fails: a record that is too short to be one, or that the server does not take, is no other
-- operation's concern. First of the answers is the time. Where all went as it was asked, an answer is one number: the fence
-- that was minted, since when the claim is in that was renewed, or nothing.
local texts, answers, later, seen = call('MGET', spread(KEYS)), { now }, nil, #KEYS > 1 and {}
for i = 1, #KEYS do
  local key, what, who, text, own = KEYS[i], ARGV[2 * i - 1], ARGV[2 * i], texts[i], nil
  local op, span, news = unpack('<Bdd', what)
  local twice = seen and seen[key]
  local answer, after, tag, memory, fence, ticket, limit, alarm, expires, ends, since, token, _, id
  if not text and not twice then text, own = look(key, sub(who, 1, 16)) end
  if not text or twice then
    -- Somebody else's, or changed by an earlier operation of this call.
  elseif #text > 113 then
    tag, memory, fence, ticket, limit, alarm, expires, ends, since, token, _, id = unpack('<dddddddddddc16', text)
  elseif #text >= #BLANK then
    tag, memory, fence, ticket, limit, alarm, expires = unpack('<ddddddd', text)
  end
  if op == ACQUIRE and (tag == NOBODY or tag == SINGLE and expires <= now) then
    local most, proposed
    _, memory, most, limit, proposed = unpack('<ddddd', what, 10)
    if most > 0 then
      ends = now + span
      if expires <= now then expires, fence, ticket = 0, 0, 0 end
      fence = max(fence + 1, proposed > 0 and proposed or now)
      if alarm > ends or alarm <= now or expires == 0 then alarm = ends end
      expires = max(expires, max(ends, fence + 1) + memory)
      answer = fence
      after = pack('<c7Bddddddddddc0', MAGIC, 1, memory, fence, ticket, limit, alarm, expires, ends, now, fence, ticket, who)
    end
  elseif op == ACQUIRE and tag == SINGLE and id and alarm > now then
    local patience, _, most, wants = unpack('<dddd', what, 10)
    local permits, owner = unpack('<dI2', text, 105)
    local mine, wanted, claimant = unpack('<c16dI2', who)
    if patience == 0 and most > 0 and token > 0 and id ~= mine and (owner == 0 or claimant == 0) and limit == wants
      and permits + wanted > limit then
      answer = pack('<c1dd', 'B', 0, alarm - now)
    end
  elseif tag == SINGLE and id == who and token > 0 and ends > now and news <= fence then
    if alarm <= now then alarm = ends end
    if op == RENEW then
      local was, asked, step = expires, now + span, memory + SECOND
      if ends < asked then ends = asked end
      local over = (ends > fence and ends or fence + 1) + memory
      if expires < over then expires = over end
      if expires - expires % step > was then call('PEXPIREAT', key, till(expires, memory)) end
      -- The offset of `alarm`; as a text, for that is how the server is told it.
      local written = try('SETRANGE', key, '40', pack('<ddd', alarm, expires, ends))
      if written ~= #text then
        answer = written -- an error
      elseif token == news and ends == asked then
        answer = since
      else
        answer = pack(HELD, 'H', token, since, ends, 0)
      end
    elseif op == RELEASE and span == 0 then
      expires = max(now, fence + 1) + memory
      answer, after = 0, pack('<c7Bc32dd', MAGIC, 0, sub(text, 9, 40), alarm, expires)
    end
  elseif op == RENEW and tag == CROWD and own and #own > 23 and #text > 71 and alarm > now and news <= fence then
    ends, since, token = unpack('<ddd', own)
    if token > 0 then
      local was, step = expires, memory + SECOND
      ends = max(ends, now + span)
      expires = max(expires, max(ends, fence + 1) + memory)
      answer = pack(HELD, 'H', token, since, ends, unpack('<d', text, 65))
      if expires - expires % step > was then call('PEXPIREAT', key, till(expires, memory)) end
      call('HSET', key, 'h', sub(text, 1, 48) .. pack('<d', expires) .. sub(text, 57), 'e' .. who,
        pack('<d', ends) .. sub(own, 9))
    end
  end
  if seen then seen[key] = true end
  if not answer then
    later = later or {}
    later[#later + 1] = { i = i, text = text, own = own, twice = twice }
  elseif after and expires > now then
    local written = try('SET', key, after, 'PXAT', till(expires, op == ACQUIRE and memory))
    if written.err then answer = written end
  elseif after then
    call('DEL', key)
  end
  answers[i + 1] = answer
end
if not later and seen then return answers end
if not later then
  -- One alone: the time with the answer in one text, or as one number, which costs the server less than a list.
  local answer = answers[2]
  if answer == now or answer == 0 then return now end
  if type(answer) == 'number' then return pack('<dc1d', now, '#', answer) end
  return type(answer) == 'table' and answer or pack('<dc0', now, answer)
end
