-- Let the jobs of a chunk go whose report part is in storage, once, and count it as flushed.
-- KEYS[1] batch; KEYS[2] chunks; KEYS[3] taken; KEYS[4] what a job's key begins with;
-- KEYS[5] what the key of its segment log begins with
-- ARGV[1] chunk, then its lines
-- returns 1, or 0 if the chunk is not in the window (somebody else was first) or has jobs left
if redis.call('HGET', KEYS[2], ARGV[1]) ~= '0' then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], 'flushed', 1)
for i = 2, #ARGV do
  -- whoever ends a line lets its log go; nobody ends one that is cancelled
  if redis.call('HGET', KEYS[4] .. ARGV[i], 'state') == 'cancelled' then
    redis.call('UNLINK', KEYS[5] .. ARGV[i])
  end
  redis.call('UNLINK', KEYS[4] .. ARGV[i])
end
if #ARGV > 1 then
  redis.call('HDEL', KEYS[3], unpack(ARGV, 2))
end
return 1
