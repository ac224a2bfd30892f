-- Say that all lines of a batch are in: from now on it can be complete.
-- KEYS[1] batch
-- ARGV[1] lines accepted, ARGV[2] lines rejected
-- returns jobs still open, or -1 if there is no such batch (the store has lost it meanwhile)
if redis.call('HEXISTS', KEYS[1], 'source') == 0 then
  return -1
end
redis.call('HSET', KEYS[1], 'sealed', '1', 'accepted', ARGV[1], 'rejected', ARGV[2])
local ended = redis.call('HMGET', KEYS[1], 'succeeded', 'failed')
return tonumber(ARGV[1]) - tonumber(ended[1] or '0') - tonumber(ended[2] or '0')
