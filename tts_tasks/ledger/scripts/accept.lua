-- Accept a job, once. Rule 2: the ledger is written before the queue is rung.
-- KEYS[1] job
-- ARGV    field, value, field, value ... of the new job
-- returns {1 if it is new else 0, time in ms}
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {0, now_ms}
end
redis.call('HSET', KEYS[1], 'state', 'accepted', 'attempt', 0, 'strikes', 0,
           'accepted_ms', now_ms, unpack(ARGV))
return {1, now_ms}
