-- Counts questions for a tenant's most-asked list. Runs on Redis 6.2 and later, and on Valkey.
--
-- A score is the logarithm to base 2 of a sum in which each asking weighs 2 ^ (its time / half-life): forward decay, so
-- nothing has to be decayed later, and in the logarithm nothing overflows. How often "lately" is 2 ^ (score - now /
-- half-life). A question that finds the list full takes the last one's place and its score: it may seem to have been asked
-- more often, and never less, than it was. Sources: Cormode et al., "Forward Decay", 2009; Metwally et al., "Space-Saving",
-- 2005.
--
-- KEYS[1]       the list, a sorted set of digest by score
-- KEYS[2]       the sealed questions, a hash by digest
--
-- ARGV[1]       most questions in the list
-- ARGV[2]       half-life in seconds
-- ARGV[3]       seconds after which a list that nobody adds to is forgotten
-- ARGV[2i+2]    a digest
-- ARGV[2i+3]    how often it was asked for
--
-- Returns the digests of those whose question is not kept yet.

local now = tonumber(redis.call('TIME')[1]) / tonumber(ARGV[2])
local wanted = {}

for i = 4, #ARGV, 2 do
  local digest = ARGV[i]
  local score = now + math.log(tonumber(ARGV[i + 1])) / math.log(2)
  local before = redis.call('ZSCORE', KEYS[1], digest)
  while not before and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) do
    local last = redis.call('ZPOPMIN', KEYS[1])
    redis.call('HDEL', KEYS[2], last[1])
    if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[1]) then before = last[2] end
  end
  if before then
    local high, low = math.max(tonumber(before), score), math.min(tonumber(before), score)
    score = high + math.log(1 + 2 ^ (low - high)) / math.log(2)
  end
  redis.call('ZADD', KEYS[1], string.format('%.17g', score), digest)
  if redis.call('HEXISTS', KEYS[2], digest) == 0 then wanted[#wanted + 1] = digest end
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return wanted
