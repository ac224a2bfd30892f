-- Count the next chunk of a batch whose report part is in storage already: fed and flushed at once.
-- KEYS[1] batch; KEYS[2] done
-- ARGV[1] chunk, ARGV[2] succeeded, ARGV[3] failed, ARGV[4] cancelled,
-- ARGV[5] how many ended lines are kept, then the lines
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
if #ARGV > 5 then
  redis.call('HINCRBY', KEYS[1], 'done_total', #ARGV - 5)
  redis.call('RPUSH', KEYS[2], unpack(ARGV, 6))
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[5]), -1)
end
return 1
