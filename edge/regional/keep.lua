-- Keeps an answer, unless its tenant's answers were purged since it was asked for. Runs on Redis 6.2 and later, and on
-- Valkey.
--
-- KEYS[1]       the answer's entry
-- KEYS[2]       the tenant's generation: changed by each purge
--
-- ARGV[1]       the entry, "<unix seconds>.<sealed>"
-- ARGV[2]       seconds to keep it
-- ARGV[3]       the generation under which it was asked for
--
-- Returns 1 where it is kept, else 0.

if (redis.call('GET', KEYS[2]) or '') ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
