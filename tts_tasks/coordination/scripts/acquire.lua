-- Take a free lane under a new epoch, both in one step. Rule 1: one primary a lane.
-- KEYS[1] lease, KEYS[2] epoch counter (same slot)
-- ARGV[1] holder, ARGV[2] TTL in ms
-- returns {1, "epoch:holder"} if it was free, else {0, the record that is there}
local held = redis.call('GET', KEYS[1])
if held then
  return {0, held}
end
local record = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], record, 'NX', 'PX', ARGV[2])
return {1, record}
