-- Let a batch wait for its turn with its output; who is there keeps its place.
-- KEYS[1] turns
-- ARGV[1] batch, ARGV[2] output
-- returns the entry "number output". Each change of the hash raises its number '#', and a hash that
-- was lost begins above all numbers there were: so the number tells whether a copy is still right.
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry then
  return entry
end
if redis.call('HEXISTS', KEYS[1], '#') == 0 then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], '#', string.format('%.0f', now[1] * 1000000 + now[2]))
end
entry = string.format('%.0f', redis.call('HINCRBY', KEYS[1], '#', 1)) .. ' ' .. ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], entry)
return entry
