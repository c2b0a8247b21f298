-- Admits one request and looks its answer up, in one call: everything is checked first, then everything is taken or
-- nothing. A refusal writes nothing at all. Runs on Redis 6.2 and later, and on Valkey.
--
-- Buckets are GCRA: a key holds the time, in microseconds of Redis' own clock, at which the bucket is full again.
-- A missing key is a full bucket. Numbers are written with %.0f, because Lua's own tostring keeps only 14 digits.
--
-- KEYS[1]       the answer's entry, "<unix seconds>.<sealed>"
-- KEYS[2]       the tenant's generation: made with the first answer that is asked for or given, changed by each purge
-- per scope s = 1..n:
-- KEYS[2s+1]    its requests bucket
-- KEYS[2s+2]    its tokens bucket
-- and then per scope:
-- KEYS[2n+2+s]  its stream leases, a sorted set of lease id by expiry in microseconds
-- KEYS[3n+3]    there while somebody refreshes the entry
-- KEYS[3n+4]    the tenant's token budgets, a hash of scope id by "<day> <tokens> <month> <tokens>": the calendar windows
--               last charged, and with what. Without an expiry, so that no memory limit forgets what was spent
-- KEYS[#KEYS]   the tenant's revoked tokens, a sorted set of token id by expiry in Unix seconds
--
-- ARGV[1]       "1" to look the answer up, "0" not to
-- ARGV[2]       seconds for which an entry is fresh
-- ARGV[3]       without an answer: "reserve" tokens and a slot, or "report" that it is absent
-- ARGV[4]       requests to charge, 0 or 1
-- ARGV[5]       tokens to reserve
-- ARGV[6]       lease id, also the name of a new generation
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
-- and then, only where any scope has a budget, per scope:
-- ARGV[4n+3s+9]   its id
-- ARGV[4n+3s+10]  tokens per UTC day, 0 where there is no such budget
-- ARGV[4n+3s+11]  tokens per UTC month, likewise
--
-- Returns { outcome, entry, scope, limit, retry in ms, generation, permits } and then per scope { requests left, full
-- in ms, requests full at in µs, tokens left, full in ms, streams left, tokens full at in µs, tokens reserved }; where
-- any scope has a budget, then { day, its end in ms, month, its end in ms, its length in s } and per scope { tokens left
-- of the day, of the month }, of which 0 says nothing where there is none.
-- outcome: "hit" | "reserved" | "absent" | "denied"; scope and limit name what denied: of several the one that lasts
-- longest. "reserved" with an entry: it is stale, and within ARGV[10] this request is the one to refresh it. For a
-- revoked token it is { "revoked" } and nothing else.

if ARGV[#ARGV] ~= '' and redis.call('ZSCORE', KEYS[#KEYS], ARGV[#ARGV]) then return { 'revoked' } end

local WINDOW = 60000000
-- A bucket's state is a whole microsecond only to a double's precision; one more can't be worth a request.
local ROUNDING = 1

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local requests, tokens = tonumber(ARGV[4]), tonumber(ARGV[5])

local count = (#KEYS - 5) / 3
local REFRESH, BUDGETS = KEYS[#KEYS - 2], KEYS[#KEYS - 1]
-- What is text, in one reading.
local texts = redis.call('MGET', unpack(KEYS, 1, 2 + 2 * count))

local function bucket(key, text, perMinute, cost)
  local fullAt = math.max(tonumber(text or '') or now, now)
  local each = WINDOW / perMinute
  return { key = key, each = each, fullAt = fullAt, cost = math.min(cost, perMinute), max = perMinute }
end

-- The days from 1970-01-01 to the first of a month; months count from year 0. Years begin in March, so that the leap day
-- is a year's last. Source: Howard Hinnant, chrono-Compatible Low-Level Date Algorithms, days_from_civil.
local function firstDayOf(month)
  local year = math.floor((month - 2) / 12)
  local inYear = (month - 2) % 12
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * inYear + 2) / 5) - 719468
end

local DAY = 86400000000
local day = math.floor(now / DAY)
local month, monthEnd, monthDays
-- Only where there is a budget: most calls have none.
local function openCalendar()
  -- No month is longer than a 12.175th of a year or so: the guess is never late, and at most one month early.
  month = math.floor((day + 719468) / 30.436875) + 2
  while firstDayOf(month) > day do month = month - 1 end
  while firstDayOf(month + 1) <= day do month = month + 1 end
  monthEnd = firstDayOf(month + 1) * DAY
  monthDays = firstDayOf(month + 1) - firstDayOf(month)
end

local function readBudget(text)
  return string.match(text or '', '^(%d+) (%d+) (%d+) (%d+)$')
end

local function budget(id, perDay, perMonth)
  if perDay == 0 and perMonth == 0 then return nil end
  if not month then openCalendar() end
  local d, ofDay, m, ofMonth = readBudget(redis.call('HGET', BUDGETS, id))
  return {
    id = id,
    day = { max = perDay, used = tonumber(d) == day and tonumber(ofDay) or 0, ends = (day + 1) * DAY },
    month = { max = perMonth, used = tonumber(m) == month and tonumber(ofMonth) or 0, ends = monthEnd },
  }
end

local hasBudgets = #ARGV > 4 * count + 12
local scopes = {}
for s = 1, count do
  local streamsMax = tonumber(ARGV[4 * s + 10])
  local leases = KEYS[2 * count + 2 + s]
  local live = redis.call('ZCOUNT', leases, string.format('(%.0f', now), '+inf')
  local own = 4 * count + 3 * s + 9
  scopes[s] = {
    requests = bucket(KEYS[2 * s + 1], texts[2 * s + 1], tonumber(ARGV[4 * s + 8]), requests),
    tokens = bucket(KEYS[2 * s + 2], texts[2 * s + 2], tonumber(ARGV[4 * s + 9]), tokens),
    leases = leases,
    budget = hasBudgets and budget(ARGV[own], tonumber(ARGV[own + 1]), tonumber(ARGV[own + 2])) or nil,
    streamsLeft = math.max(streamsMax - live, 0),
  }
end

-- Until the calendar window is over, where it can't pay; else 0.
local function windowWait(w)
  if w.max == 0 or w.used + math.min(tokens, w.max) <= w.max then return 0 end
  return w.ends - now
end

local function windowLeft(w)
  return math.max(w.max - w.used, 0)
end

local function spend(b)
  if not b then return end
  for _, w in ipairs({ b.day, b.month }) do w.used = w.used + math.min(tokens, w.max) end
  redis.call('HSET', BUDGETS, b.id, string.format('%.0f %.0f %.0f %.0f', day, b.day.used, month, b.month.used))
  -- Two looked at for each one that may be new: what is left of past months melts away.
  local some = redis.call('HRANDFIELD', BUDGETS, 2, 'WITHVALUES')
  for i = 1, #some, 2 do
    local _, _, m = readBudget(some[i + 1])
    if tonumber(m) ~= month then redis.call('HDEL', BUDGETS, some[i]) end
  end
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

-- A generation that is gone, by expiry or for want of memory, never comes back: the next has another name. So whoever
-- holds an answer under the old one drops it, exactly as after a purge, and a purge need not know of it. For the same
-- reason no answer leaves here without one.
local GENERATION_MS = 86400000
local function generationFor(outcome)
  local generation = texts[2] or ''
  if outcome == 'reserved' then
    -- It outlives the answer that is about to be made.
    if generation == '' then generation = ARGV[6] end
    redis.call('SET', KEYS[2], generation, 'PX', GENERATION_MS + tonumber(ARGV[7]))
  elseif outcome == 'hit' and generation == '' then
    generation = ARGV[6]
    redis.call('SET', KEYS[2], generation, 'PX', GENERATION_MS)
  end
  return generation
end

local permits = 0
-- Never more than half of what is left, so that other isolates find something, and the last requests are exact.
local function grant()
  permits = tonumber(ARGV[8])
  if permits == 0 then return end
  for _, s in ipairs(scopes) do permits = math.min(permits, math.floor(left(s.requests) / 2)) end
  for _, s in ipairs(scopes) do charge(s.requests, permits) end
end

local function reply(outcome, entry, scope, limit, retry)
  if outcome ~= 'denied' then grant() end
  local answer = { outcome, entry, scope, limit, math.ceil(retry / 1000), generationFor(outcome), permits }
  local function add(b)
    answer[#answer + 1] = left(b)
    answer[#answer + 1] = math.ceil((b.fullAt - now) / 1000)
  end
  for _, s in ipairs(scopes) do
    add(s.requests)
    answer[#answer + 1] = s.requests.fullAt
    add(s.tokens)
    answer[#answer + 1] = s.streamsLeft
    answer[#answer + 1] = s.tokens.fullAt
    answer[#answer + 1] = s.tokens.cost
  end
  if month then
    local function add(value) answer[#answer + 1] = value end
    add(day)
    add(math.ceil(((day + 1) * DAY - now) / 1000))
    add(month)
    add(math.ceil((monthEnd - now) / 1000))
    add(monthDays * 86400)
    for _, s in ipairs(scopes) do
      add(s.budget and windowLeft(s.budget.day) or 0)
      add(s.budget and windowLeft(s.budget.month) or 0)
    end
  end
  return answer
end

-- What refuses longest: whoever comes back before that would be refused again.
local worst = { wait = 0 }
local function refuse(index, limit, time)
  if time > worst.wait then worst = { wait = time, scope = index, limit = limit } end
end

for index, s in ipairs(scopes) do refuse(index, 'requests', wait(s.requests)) end
if worst.limit then return reply('denied', '', worst.scope, worst.limit, worst.wait) end

local function hit(entry)
  for _, s in ipairs(scopes) do take(s.requests) end
  return reply('hit', entry, 0, '', 0)
end

local entry = ARGV[1] == '1' and texts[1] or ''
local storedAt = tonumber(string.match(entry, '^(%d+)%.') or '')
local past = storedAt and now / 1000000 - storedAt - tonumber(ARGV[2]) or math.huge
local given = past <= tonumber(ARGV[10])
-- Fresh; or stale, and somebody refreshes it already, or this request is not to.
if past <= 0 or (given and (ARGV[3] == 'report' or redis.call('EXISTS', REFRESH) == 1)) then return hit(entry) end

if ARGV[3] == 'report' then
  for _, s in ipairs(scopes) do take(s.requests) end
  return reply('absent', '', 0, '', 0)
end

for index, s in ipairs(scopes) do
  refuse(index, 'tokens', wait(s.tokens))
  if s.budget then
    refuse(index, 'day', windowWait(s.budget.day))
    refuse(index, 'month', windowWait(s.budget.month))
  end
end
for index, s in ipairs(scopes) do
  -- A slot comes back whenever a stream ends, so no time can be named.
  if s.streamsLeft < 1 and not worst.limit then worst = { wait = 0, scope = index, limit = 'streams' } end
end
if worst.limit then
  -- Who can't pay for the refresh still gets what is there.
  if given then return hit(entry) end
  return reply('denied', '', worst.scope, worst.limit, worst.wait)
end
if not given and past > tonumber(ARGV[11]) then entry = '' end

local leaseMs = tonumber(ARGV[7])
-- A refresh that crashed is tried again once its lease is over.
if given then redis.call('SET', REFRESH, '1', 'PX', leaseMs) end
for _, s in ipairs(scopes) do
  take(s.requests)
  take(s.tokens)
  spend(s.budget)
  redis.call('ZREMRANGEBYSCORE', s.leases, '-inf', string.format('%.0f', now))
  redis.call('ZADD', s.leases, string.format('%.0f', now + leaseMs * 1000), ARGV[6])
  redis.call('PEXPIRE', s.leases, leaseMs + 1)
  s.streamsLeft = s.streamsLeft - 1
end
return reply('reserved', entry, 0, '', 0)
