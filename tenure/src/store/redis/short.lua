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

local MAGIC = 'tenure\1'
local HEAD = '<c7Bdddddd'         -- magic, how many entries, alarm, memory, expires, fence, ticket, limit
local SUMS = '<dddddd'            -- holders, waiting, graves, the holders' weight, the head's ticket, the latest grave
local ENTRY = '<ddddc16dI2c0I4c0' -- since, until, fence, ticket; id, permits, owner, rest: the inbox and the meta
local HELD = '<c1ddddd'           -- 'H', now, fence, since, until, waiting
local BLANK = 'tenure\1\0\255\255\255\255\255\255?C\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
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
-- Nothing here makes a function, for that costs the server more than to call it, and nothing fails: a record that is too
-- short to be one, or that the server does not take, is no other operation's concern. Where all went as it was asked, the
-- time is the answer.
local texts, answers, later, seen = call('MGET', spread(KEYS)), {}, nil, #KEYS > 1 and {}
for i = 1, #KEYS do
  local key, what, who, text, own = KEYS[i], ARGV[2 * i - 1], ARGV[2 * i], texts[i], nil
  local op, span, news = unpack('<Bdd', what)
  local twice = seen and seen[key]
  local answer, after, magic, count, alarm, memory, expires, fence
  if not text and not twice then text, own = look(key, sub(who, 1, 16)) end
  if text and #text >= #BLANK and not twice then
    magic, count, alarm, memory, expires, fence = unpack('<c7Bdddd', text)
  end
  if magic ~= MAGIC then
    -- Somebody else's, or changed by an earlier operation of this call.
  elseif op == ACQUIRE and (count == 0 or expires <= now) then
    local _, most, limit, proposed
    _, memory, most, limit, proposed = unpack('<ddddd', what, 10)
    if most > 0 then
      local ticket, ends = unpack('<d', text, 41), now + span
      if expires <= now then expires, fence, ticket = 0, 0, 0 end
      fence = max(fence + 1, proposed > 0 and proposed or now)
      if alarm > ends or alarm <= now or expires == 0 then alarm = ends end
      expires = max(expires, max(ends, fence + 1) + memory)
      answer = fence == now and now or pack(HELD, 'H', now, fence, now, ends, 0)
      after = pack('<c7Bddddddddddc0', MAGIC, 1, alarm, memory, expires, fence, ticket, limit, now, ends, fence, ticket,
        who)
    end
  elseif op == ACQUIRE and count == 1 and alarm > now and #text > 113 then
    local patience, _, most, limit = unpack('<dddd', what, 10)
    local token, _, id, permits, owner = unpack('<ddc16dI2', text, 73)
    local mine, wanted, claimant = unpack('<c16dI2', who)
    if patience == 0 and most > 0 and token > 0 and id ~= mine and (owner == 0 or claimant == 0)
      and limit == unpack('<d', text, 49) and permits + wanted > limit then
      answer = pack('<c1ddd', 'B', now, 0, alarm - now)
    end
  elseif alarm > now and news <= fence and (own and #own > 23 and #text > 71 or count == 1 and sub(text, 89, 104) == who) then
    local since, ends, token = unpack('<ddd', own or text, own and 1 or 57)
    if op == RENEW and token > 0 then
      local step, was = memory + SECOND, expires
      ends = max(ends, now + span)
      expires = max(expires, max(ends, fence + 1) + memory)
      answer = pack(HELD, 'H', now, token, since, ends, own and unpack('<d', text, 65) or 0)
      if expires - expires % step > was then call('PEXPIREAT', key, till(expires, memory)) end
      if own then
        call('HSET', key, 'h', sub(text, 1, 24) .. pack('<d', expires) .. sub(text, 33), 'e' .. who,
          pack('<dd', since, ends) .. sub(own, 17))
      else
        local written = try('SETRANGE', key, 24, pack('<dc32d', expires, sub(text, 33, 64), ends))
        if type(written) == 'table' then answer = written end
      end
    elseif op == RELEASE and count == 1 and span == 0 and token > 0 then
      expires = max(now, fence + 1) + memory
      answer, after = now, pack('<c7Bdddc24', MAGIC, 0, alarm, memory, expires, sub(text, 33, 56))
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
  answers[i] = answer
end
if not later then return #KEYS == 1 and answers[1] or answers end
