-- Admits one request and looks its answer up, in one call: everything is checked first, then everything is taken or
-- nothing. A refusal writes nothing at all. Runs on Redis 6.2 and later, and on Valkey.
--
-- Buckets are GCRA: a key holds the time, in microseconds of Redis' own clock, at which the bucket is full again.
-- A missing key is a full bucket. Numbers are written with %.0f, because Lua's own tostring keeps only 14 digits.
--
-- KEYS[1]       the answer's entry, "<unix seconds>.<sealed>"
-- KEYS[2]       the tenant's generation: changed by each purge, absent before the first
-- KEYS[3]       there while somebody refreshes the entry
-- KEYS[#KEYS]   the tenant's revoked tokens, a sorted set of token id by expiry in Unix seconds
-- per scope s = 1..n:
-- KEYS[3s+1]    its requests bucket
-- KEYS[3s+2]    its tokens bucket
-- KEYS[3s+3]    its stream leases, a sorted set of lease id by expiry in microseconds
--
-- ARGV[1]       "1" to look the answer up, "0" not to
-- ARGV[2]       seconds for which an entry is fresh
-- ARGV[3]       without an answer: "reserve" tokens and a slot, or "report" that it is absent
-- ARGV[4]       requests to charge, 0 or 1
-- ARGV[5]       tokens to reserve
-- ARGV[6]       lease id
-- ARGV[7]       lease time in milliseconds
-- ARGV[8]       permits wanted: requests paid for in advance, at most half of what is left after this one
-- ARGV[9]       permits handed back unspent
-- ARGV[10]      seconds after that for which it is still given, while one request refreshes it
-- ARGV[11]      seconds after that for which it is told to who reserves, for the case that no origin answers
-- ARGV[#ARGV]   the token's id, empty where it has none
-- per scope s = 1..n:
-- ARGV[4s+8]    requests per minute
-- ARGV[4s+9]    tokens per minute
-- ARGV[4s+10]   streams at once
-- ARGV[4s+11]   when the requests bucket was to be full again after those permits were paid, in microseconds
--
-- Returns { outcome, entry, scope, limit, retry in ms, generation, permits } and then per scope { requests left, full
-- in ms, requests full at in µs, tokens left, full in ms, streams left, tokens full at in µs, tokens reserved }.
-- outcome: "hit" | "reserved" | "absent" | "denied"; scope and limit name what denied. "reserved" with an entry: it is
-- stale, and within ARGV[10] this request is the one to refresh it. For a revoked token it is
-- { "revoked" } and nothing else.

if ARGV[#ARGV] ~= '' and redis.call('ZSCORE', KEYS[#KEYS], ARGV[#ARGV]) then return { 'revoked' } end

local WINDOW = 60000000
-- A bucket's state is a whole microsecond only to a double's precision; one more can't be worth a request.
local ROUNDING = 1

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local requests, tokens = tonumber(ARGV[4]), tonumber(ARGV[5])

local function bucket(key, perMinute, cost)
  local fullAt = math.max(tonumber(redis.call('GET', key) or '') or now, now)
  local each = WINDOW / perMinute
  return { key = key, each = each, fullAt = fullAt, cost = math.min(cost, perMinute), max = perMinute }
end

local scopes = {}
for s = 1, (#KEYS - 4) / 3 do
  local streamsMax = tonumber(ARGV[4 * s + 10])
  local live = redis.call('ZCOUNT', KEYS[3 * s + 3], string.format('(%.0f', now), '+inf')
  scopes[s] = {
    requests = bucket(KEYS[3 * s + 1], tonumber(ARGV[4 * s + 8]), requests),
    tokens = bucket(KEYS[3 * s + 2], tonumber(ARGV[4 * s + 9]), tokens),
    leases = KEYS[3 * s + 3],
    streamsLeft = math.max(streamsMax - live, 0),
  }
end

-- How long until a bucket could pay; 0 or less when it can.
local function wait(b)
  return b.fullAt + b.cost * b.each - now - WINDOW - ROUNDING
end

local function left(b)
  return math.min(math.max(math.floor((WINDOW + ROUNDING - (b.fullAt - now)) / b.each), 0), b.max)
end

local function charge(b, cost)
  if cost == 0 then return end
  b.fullAt = b.fullAt + cost * b.each
  redis.call('SET', b.key, string.format('%.0f', b.fullAt), 'PX', math.ceil((b.fullAt - now) / 1000) + 1)
end

local function take(b)
  charge(b, b.cost)
end

-- As in settle.lua: what the permits held has been refilled up to now; only the part still ahead can be given back.
local unspent = tonumber(ARGV[9])
if unspent > 0 then
  for index, s in ipairs(scopes) do
    local b = s.requests
    local ahead = math.max(tonumber(ARGV[4 * index + 11]) - now, 0)
    charge(b, -math.min(unspent, ahead / b.each, (b.fullAt - now) / b.each))
  end
end

local permits = 0
-- Never more than half of what is left, so that other isolates find something, and the last requests are exact.
local function grant()
  permits = tonumber(ARGV[8])
  for _, s in ipairs(scopes) do permits = math.min(permits, math.floor(left(s.requests) / 2)) end
  for _, s in ipairs(scopes) do charge(s.requests, permits) end
end

local function reply(outcome, entry, scope, limit, retry)
  if outcome ~= 'denied' then grant() end
  local generation = redis.call('GET', KEYS[2]) or ''
  local answer = { outcome, entry, scope, limit, math.ceil(retry / 1000), generation, permits }
  local function add(b)
    answer[#answer + 1] = left(b)
    answer[#answer + 1] = math.ceil((b.fullAt - now) / 1000)
  end
  for _, s in ipairs(scopes) do
    add(s.requests)
    answer[#answer + 1] = string.format('%.0f', s.requests.fullAt)
    add(s.tokens)
    answer[#answer + 1] = s.streamsLeft
    answer[#answer + 1] = string.format('%.0f', s.tokens.fullAt)
    answer[#answer + 1] = s.tokens.cost
  end
  return answer
end

for index, s in ipairs(scopes) do
  if wait(s.requests) > 0 then return reply('denied', '', index, 'requests', wait(s.requests)) end
end

local function hit(entry)
  for _, s in ipairs(scopes) do take(s.requests) end
  return reply('hit', entry, 0, '', 0)
end

local entry = ARGV[1] == '1' and redis.call('GET', KEYS[1]) or ''
local storedAt = tonumber(string.match(entry, '^(%d+)%.') or '')
local past = storedAt and now / 1000000 - storedAt - tonumber(ARGV[2]) or math.huge
local given = past <= tonumber(ARGV[10])
-- Fresh; or stale, and somebody refreshes it already, or this request is not to.
if past <= 0 or (given and (ARGV[3] == 'report' or redis.call('EXISTS', KEYS[3]) == 1)) then return hit(entry) end

if ARGV[3] == 'report' then
  for _, s in ipairs(scopes) do take(s.requests) end
  return reply('absent', '', 0, '', 0)
end

for index, s in ipairs(scopes) do
  local limit = wait(s.tokens) > 0 and 'tokens' or s.streamsLeft < 1 and 'streams'
  -- Who can't pay for the refresh still gets what is there.
  if limit and given then return hit(entry) end
  -- A slot comes back whenever a stream ends, so no time can be named.
  if limit then return reply('denied', '', index, limit, limit == 'tokens' and wait(s.tokens) or 0) end
end
if not given and past > tonumber(ARGV[11]) then entry = '' end

local leaseMs = tonumber(ARGV[7])
-- A refresh that crashed is tried again once its lease is over.
if given then redis.call('SET', KEYS[3], '1', 'PX', leaseMs) end
for _, s in ipairs(scopes) do
  take(s.requests)
  take(s.tokens)
  redis.call('ZREMRANGEBYSCORE', s.leases, '-inf', string.format('%.0f', now))
  redis.call('ZADD', s.leases, string.format('%.0f', now + leaseMs * 1000), ARGV[6])
  redis.call('PEXPIRE', s.leases, leaseMs + 1)
  s.streamsLeft = s.streamsLeft - 1
end
return reply('reserved', entry, 0, '', 0)
