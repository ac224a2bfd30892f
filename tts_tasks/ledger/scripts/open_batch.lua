-- Open a batch under an id, or find it there. The same id with the same content re-attaches.
-- KEYS[1] batch
-- ARGV[1] content fingerprint, then field, value ... of a new batch
-- returns {"new" | "same" | "other", sealed}
local source = redis.call('HGET', KEYS[1], 'source')
if source then
  return {source == ARGV[1] and 'same' or 'other', redis.call('HGET', KEYS[1], 'sealed')}
end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'source', ARGV[1], 'sealed', '0', 'accepted', 0, 'rejected', 0,
           'created_ms', now[1] * 1000 + math.floor(now[2] / 1000), unpack(ARGV, 2))
return {'new', '0'}
