-- Ends one reservation: the slot goes back, the tokens are corrected to what was used. Without its lease nothing is
-- done, so settling twice, or after the lease ran out, changes nothing. Runs on Redis 6.2 and later, and on Valkey.
--
-- per scope s = 1..n:
-- KEYS[2s-1]    its tokens bucket
-- KEYS[2s]      its stream leases
--
-- ARGV[1]       lease id
-- ARGV[2]       tokens used
-- per scope s = 1..n:
-- ARGV[3s]      tokens per minute
-- ARGV[3s+1]    tokens reserved
-- ARGV[3s+2]    when the bucket was to be full again after the reservation, in microseconds
--
-- Returns the number of scopes settled.

local WINDOW = 60000000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local used = tonumber(ARGV[2])
local settled = 0

for s = 1, #KEYS / 2 do
  if redis.call('ZREM', KEYS[2 * s], ARGV[1]) == 1 then
    settled = settled + 1
    local each = WINDOW / tonumber(ARGV[3 * s])
    local owed = (used - tonumber(ARGV[3 * s + 1])) * each
    -- What the reservation held has been refilled up to now; only the part still ahead can be given back.
    local ahead = math.max(tonumber(ARGV[3 * s + 2]) - now, 0)
    local key = KEYS[2 * s - 1]
    local fullAt = math.max(tonumber(redis.call('GET', key) or '') or now, now) + math.max(owed, -ahead)
    if fullAt > now then
      redis.call('SET', key, string.format('%.0f', fullAt), 'PX', math.ceil((fullAt - now) / 1000) + 1)
    else
      redis.call('DEL', key)
    end
  end
end
return settled
