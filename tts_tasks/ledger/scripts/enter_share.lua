-- List a batch among those of a queue that have work. Who had none saved nothing up: it starts at
-- the smallest virtual time of the others, or at its own if that is greater.
-- KEYS[1] shares
-- ARGV[1] batch, ARGV[2] its own virtual time
-- returns the virtual time at which it stands
local at = redis.call('ZSCORE', KEYS[1], ARGV[1])
           or redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or ARGV[2]
if tonumber(ARGV[2]) > tonumber(at) then
  at = ARGV[2]
end
redis.call('ZADD', KEYS[1], at, ARGV[1])
return at
