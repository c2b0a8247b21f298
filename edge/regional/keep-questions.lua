-- Keeps the questions of a tenant's most-asked list. Runs on Redis 6.2 and later, and on Valkey.
--
-- KEYS[1]       the list, a sorted set of digest by score
-- KEYS[2]       the sealed questions, a hash by digest
--
-- ARGV[1]       seconds to keep them
-- ARGV[2i]      a digest; one that is not in the list any more is passed over
-- ARGV[2i+1]    its sealed question
--
-- Returns how many are kept.

local kept = 0
for i = 2, #ARGV, 2 do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    kept = kept + 1
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return kept
