-- Bring ended lines of a flushed chunk back into the window, to be tried again.
-- KEYS[1] batch; KEYS[2] ready; KEYS[3] chunks; KEYS[4] done; KEYS[5] who writes its report
-- ARGV[1] chunk, ARGV[2] how many of the lines had ended as cancelled (the others as failed),
-- then the entries "line:chars:chunk"
-- returns 1, or 0 if the chunk is in the window or was never fed, the batch has not so many lines
-- that ended like this, or it is unknown. A cancelled batch is worked on again; the report is void.
local lines, cancelled = #ARGV - 2, tonumber(ARGV[2])
local failed = lines - cancelled
local batch = redis.call('HMGET', KEYS[1], 'source', 'fed', 'failed', 'cancelled')
if not batch[1] or tonumber(ARGV[1]) > tonumber(batch[2] or '0') or lines == 0
   or redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1
   or failed > tonumber(batch[3] or '0') or cancelled > tonumber(batch[4] or '0') then
  return 0
end
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[4])
redis.call('HDEL', KEYS[1], 'cancelled_ms', 'report')
redis.call('DEL', KEYS[5])
redis.call('HINCRBY', KEYS[1], 'failed', -failed)
redis.call('HINCRBY', KEYS[1], 'cancelled', -cancelled)
redis.call('HINCRBY', KEYS[1], 'flushed', -1)
redis.call('HSET', KEYS[3], ARGV[1], lines)
redis.call('RPUSH', KEYS[2], unpack(ARGV, 3))
return 1
