-- Bring the next chunk of a batch into its window, once: chunks come in their order.
-- KEYS[1] batch; KEYS[2] ready; KEYS[3] chunks; KEYS[4] done
-- ARGV[1] chunk, ARGV[2] how many ended lines are kept, then the entries "line:chars:chunk" of the
-- chunk's good lines; of a cancelled batch they end as cancelled here and now
-- returns 1, or 0 if it is not this chunk's turn or there is no such batch
local batch = redis.call('HMGET', KEYS[1], 'source', 'fed', 'cancelled_ms')
if not batch[1] or tonumber(ARGV[1]) ~= tonumber(batch[2] or '0') + 1 then
  return 0
end
local lines = #ARGV - 2
redis.call('HSET', KEYS[1], 'fed', ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], batch[3] and 0 or lines)
if lines == 0 then
  return 1
end
if not batch[3] then
  redis.call('RPUSH', KEYS[2], unpack(ARGV, 3))
  return 1
end
local ended = {}
for i = 3, #ARGV do
  ended[#ended + 1] = string.match(ARGV[i], '^%d+')
end
redis.call('HINCRBY', KEYS[1], 'cancelled', lines)
redis.call('HINCRBY', KEYS[1], 'done_total', lines)
redis.call('RPUSH', KEYS[4], unpack(ended))
redis.call('LTRIM', KEYS[4], -tonumber(ARGV[2]), -1)
return 1
