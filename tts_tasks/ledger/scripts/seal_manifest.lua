-- Say that all lines of a batch are in its manifest: from now on it can be complete.
-- KEYS[1] batch
-- ARGV[1] chunks, ARGV[2] lines accepted, ARGV[3] lines rejected
-- returns 1, or 0 if there is no such batch (the store has lost it meanwhile)
if redis.call('HEXISTS', KEYS[1], 'source') == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'sealed', '1', 'chunks', ARGV[1], 'accepted', ARGV[2],
           'rejected', ARGV[3])
return 1
