-- Pass a batch's turn on.
-- KEYS[1] turns
-- ARGV[1] batch, ARGV[2] the entry "number output" that was seen, or "*": whatever it is
-- returns 1, or 0 if there is no such entry (any more)
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry or (ARGV[2] ~= '*' and entry ~= ARGV[2]) then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[1], '#', 1)
return 1
