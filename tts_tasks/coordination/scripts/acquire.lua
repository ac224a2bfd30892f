-- Take a free lane under a new epoch, all in one step. Rule 1: one primary a lane.
-- KEYS[1] lease, KEYS[2] epoch counter, KEYS[3] successor (same slot)
-- ARGV[1] holder, ARGV[2] TTL in ms, ARGV[3] highest epoch that the candidate knows of, ARGV[4] 1 if
-- it knows of all: a store that has lost its counter must not give out an epoch again
-- returns {"taken", "epoch:holder"} | {"held", the record that is there} | {"reserved", for whom} |
--         {"uncounted"}: there is no counter, and the candidate is to find out where to go on
local held = redis.call('GET', KEYS[1])
if held then
  return {'held', held}
end
local successor = redis.call('GET', KEYS[3])
if successor and successor ~= ARGV[1] then
  return {'reserved', successor}
end
local counter = redis.call('GET', KEYS[2])
if not counter and ARGV[4] ~= '1' then
  return {'uncounted'}
end
if tonumber(ARGV[3]) > tonumber(counter or '0') then
  redis.call('SET', KEYS[2], ARGV[3])
end
local record = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], record, 'NX', 'PX', ARGV[2])
redis.call('DEL', KEYS[3])
return {'taken', record}
