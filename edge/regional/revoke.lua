-- Notes that a token was revoked, and forgets those that have expired meanwhile: no edge takes them anyway. Runs on Redis
-- 6.2 and later, and on Valkey.
--
-- KEYS[1]       the tenant's revoked tokens, a sorted set of token id by expiry in Unix seconds
--
-- ARGV[1]       the token's id
-- ARGV[2]       its expiry in Unix seconds
--
-- Returns the number of those that are remembered.

-- An edge's clock may be behind this one; a day's worth more costs nothing.
local SLACK = 86400

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', tonumber(redis.call('TIME')[1]) - SLACK)
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return redis.call('ZCARD', KEYS[1])
