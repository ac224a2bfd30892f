-- Count the next chunk of a batch whose report part is in storage already: fed and flushed at once.
-- KEYS[1] batch
-- ARGV[1] chunk, ARGV[2] succeeded, ARGV[3] failed, ARGV[4] cancelled
-- returns 1, or 0 if it is not this chunk's turn or there is no such batch
local batch = redis.call('HMGET', KEYS[1], 'source', 'fed')
if not batch[1] or tonumber(ARGV[1]) ~= tonumber(batch[2] or '0') + 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'fed', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'flushed', 1)
redis.call('HINCRBY', KEYS[1], 'succeeded', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'cancelled', ARGV[4])
return 1
