-- Open a batch under an id, or find it there. One id, one content, one output.
-- KEYS[1] batch
-- ARGV[1] content fingerprint, ARGV[2] output, then field, value ... of a new batch
-- returns "new" | "same" | "other". Found again, a batch that is not sealed shows a sign of life.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local batch = redis.call('HMGET', KEYS[1], 'source', 'output', 'sealed')
if not batch[1] then
  redis.call('HSET', KEYS[1], 'source', ARGV[1], 'output', ARGV[2], 'sealed', '0',
             'alive_ms', now_ms, unpack(ARGV, 3))
  return 'new'
end
if batch[1] ~= ARGV[1] or batch[2] ~= ARGV[2] then
  return 'other'
end
if batch[3] ~= '1' then
  redis.call('HSET', KEYS[1], 'alive_ms', now_ms)
end
return 'same'
