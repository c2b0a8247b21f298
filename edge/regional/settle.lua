-- Ends one reservation: the slot goes back, the tokens are corrected to what was used. Without its lease nothing is
-- done, so settling twice, or after the lease ran out, changes nothing. Runs on Redis 6.2 and later, and on Valkey.
--
-- KEYS[1]       the tenant's token budgets
-- per scope s = 1..n:
-- KEYS[2s]      its tokens bucket
-- KEYS[2s+1]    its stream leases
--
-- ARGV[1]       lease id
-- ARGV[2]       tokens used
-- ARGV[3]       tokens that were asked for; a budget that holds fewer reserved those
-- ARGV[4]       the day that the reservation was charged to, as admit.lua named it, or 0
-- ARGV[5]       the month, likewise
-- per scope s = 1..n:
-- ARGV[6s]      tokens per minute
-- ARGV[6s+1]    tokens reserved
-- ARGV[6s+2]    when the bucket was to be full again after the reservation, in microseconds
-- ARGV[6s+3]    its id
-- ARGV[6s+4]    tokens per UTC day, 0 where there is no such budget
-- ARGV[6s+5]    tokens per UTC month, likewise
--
-- Returns the number of scopes settled.

local WINDOW = 60000000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local used = tonumber(ARGV[2])
local reserved = tonumber(ARGV[3])
local settled = 0

-- What was reserved in a window that is over is corrected there no more: nobody can spend it.
local function correct(window, charged, spent, max)
  if max == 0 or window ~= charged then return spent end
  return math.max(spent + used - math.min(reserved, max), 0)
end

local function settleBudget(id, perDay, perMonth)
  local text = perDay + perMonth > 0 and redis.call('HGET', KEYS[1], id) or ''
  local day, ofDay, month, ofMonth = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  if not day then return end
  ofDay = correct(day, ARGV[4], tonumber(ofDay), perDay)
  ofMonth = correct(month, ARGV[5], tonumber(ofMonth), perMonth)
  redis.call('HSET', KEYS[1], id, string.format('%s %.0f %s %.0f', day, ofDay, month, ofMonth))
end

for s = 1, (#KEYS - 1) / 2 do
  -- A lease that ran out may still lie there, until the next one is taken.
  local expiry = redis.call('ZSCORE', KEYS[2 * s + 1], ARGV[1])
  redis.call('ZREM', KEYS[2 * s + 1], ARGV[1])
  if expiry and tonumber(expiry) > now then
    settled = settled + 1
    local each = WINDOW / tonumber(ARGV[6 * s])
    local owed = (used - tonumber(ARGV[6 * s + 1])) * each
    -- What the reservation held has been refilled up to now; only the part still ahead can be given back.
    local ahead = math.max(tonumber(ARGV[6 * s + 2]) - now, 0)
    local key = KEYS[2 * s]
    local fullAt = math.max(tonumber(redis.call('GET', key) or '') or now, now) + math.max(owed, -ahead)
    if fullAt > now then
      redis.call('SET', key, string.format('%.0f', fullAt), 'PX', math.ceil((fullAt - now) / 1000) + 1)
    else
      redis.call('DEL', key)
    end
    settleBudget(ARGV[6 * s + 3], tonumber(ARGV[6 * s + 4]), tonumber(ARGV[6 * s + 5]))
  end
end
return settled
