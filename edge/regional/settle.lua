-- Ends one forwarded request: its answer is kept, unless its tenant's answers were purged since it was asked for; the
-- slot goes back, and the tokens are corrected to what was used. Without its lease nothing is corrected, so settling
-- twice, or after the lease ran out, changes no limit. Runs on Redis 6.2 and later, and on Valkey.
--
-- KEYS[1]       the tenant's token budgets
-- KEYS[2]       the answer's entry
-- KEYS[3]       the tenant's generation: changed by each purge
-- per scope s = 1..n, none where nothing was reserved:
-- KEYS[2s+2]    its tokens bucket
-- KEYS[2s+3]    its stream leases
--
-- ARGV[1]       the entry, "<unix seconds>.<sealed>", or empty: there is none to keep
-- ARGV[2]       seconds to keep it
-- ARGV[3]       the generation under which it was asked for
-- ARGV[4]       lease id
-- ARGV[5]       tokens used
-- ARGV[6]       tokens that were asked for; a budget that holds fewer reserved those
-- ARGV[7]       the day that the reservation was charged to, as admit.lua named it, or 0
-- ARGV[8]       the month, likewise
-- per scope s = 1..n:
-- ARGV[6s+3]    tokens per minute
-- ARGV[6s+4]    tokens reserved
-- ARGV[6s+5]    when the bucket was to be full again after the reservation, in microseconds
-- ARGV[6s+6]    its id
-- ARGV[6s+7]    tokens per UTC day, 0 where there is no such budget
-- ARGV[6s+8]    tokens per UTC month, likewise
--
-- Returns what became of the entry: 'kept', 'purged', 'refused' by Redis, or 'none' where there is none.

-- Before anything else is written: from its first write on, Redis lets a script go beyond its memory limit. And what it
-- refuses must not keep the slot.
local function keep()
  if ARGV[1] == '' then return 'none' end
  if (redis.call('GET', KEYS[3]) or '') ~= ARGV[3] then return 'purged' end
  local reply = redis.pcall('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
  return reply.err and 'refused' or 'kept'
end

local entry = keep()

local WINDOW = 60000000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local used = tonumber(ARGV[5])
local reserved = tonumber(ARGV[6])

-- What was reserved in a window that is over is corrected there no more: nobody can spend it.
local function correct(window, charged, spent, max)
  if max == 0 or window ~= charged then return spent end
  return math.max(spent + used - math.min(reserved, max), 0)
end

local function settleBudget(id, perDay, perMonth)
  local text = perDay + perMonth > 0 and redis.call('HGET', KEYS[1], id) or ''
  local day, ofDay, month, ofMonth = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  if not day then return end
  ofDay = correct(day, ARGV[7], tonumber(ofDay), perDay)
  ofMonth = correct(month, ARGV[8], tonumber(ofMonth), perMonth)
  redis.call('HSET', KEYS[1], id, string.format('%s %.0f %s %.0f', day, ofDay, month, ofMonth))
end

for s = 1, (#KEYS - 3) / 2 do
  -- A lease that ran out may still lie there, until the next one is taken.
  local expiry = redis.call('ZSCORE', KEYS[2 * s + 3], ARGV[4])
  redis.call('ZREM', KEYS[2 * s + 3], ARGV[4])
  if expiry and tonumber(expiry) > now then
    local each = WINDOW / tonumber(ARGV[6 * s + 3])
    local owed = (used - tonumber(ARGV[6 * s + 4])) * each
    -- What the reservation held has been refilled up to now; only the part still ahead can be given back.
    local ahead = math.max(tonumber(ARGV[6 * s + 5]) - now, 0)
    local key = KEYS[2 * s + 2]
    local fullAt = math.max(tonumber(redis.call('GET', key) or '') or now, now) + math.max(owed, -ahead)
    if fullAt > now then
      redis.call('SET', key, string.format('%.0f', fullAt), 'PX', math.ceil((fullAt - now) / 1000) + 1)
    else
      redis.call('DEL', key)
    end
    settleBudget(ARGV[6 * s + 6], tonumber(ARGV[6 * s + 7]), tonumber(ARGV[6 * s + 8]))
  end
end
return entry
