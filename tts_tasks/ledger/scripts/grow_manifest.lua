-- Note how many chunks of a batch's manifest are in storage; never less than before. It is also the
-- submitter's sign of life.
-- KEYS[1] batch
-- ARGV[1] chunks
-- returns the number that stands, or -1 if there is no such batch (the store has lost it meanwhile)
local batch = redis.call('HMGET', KEYS[1], 'source', 'chunks')
if not batch[1] then
  return -1
end
local now = redis.call('TIME')
local chunks = math.max(tonumber(batch[2] or '0'), tonumber(ARGV[1]))
redis.call('HSET', KEYS[1], 'chunks', chunks,
           'alive_ms', now[1] * 1000 + math.floor(now[2] / 1000))
return chunks
