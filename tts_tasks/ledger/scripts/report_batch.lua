-- Note where the report of a batch is, and let the batch expire after its retention.
-- KEYS[1] batch; KEYS[2] done; KEYS[3] runs
-- ARGV[1] URI, ARGV[2] retention_s
-- returns 1, or 0 if chunks are still to be flushed (lines are tried again) or it is unknown
local batch = redis.call('HMGET', KEYS[1], 'sealed', 'chunks', 'flushed')
if batch[1] ~= '1' or tonumber(batch[3] or '0') < tonumber(batch[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'report', ARGV[1])
redis.call('DEL', KEYS[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
