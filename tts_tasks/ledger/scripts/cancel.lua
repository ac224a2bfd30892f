-- Cancel an online job: it ends here and now. Every attempt at it is refused from then on, for
-- claim, append, restart, finish and release want a job that is accepted or running (rule 3).
-- KEYS[1] job; KEYS[2] load of the lane that is named like the job's tag (same slot)
-- ARGV[1] retention_s
-- returns {how it has ended: "cancelled", or as it had before, or "" if it is unknown,
--          the worker that had it in hand, or ""}
local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'counted', 'chars', 'claimed_ms')
local state, worker = job[1] or '', job[2] or ''
if state ~= 'accepted' and state ~= 'running' then
  return {state, worker}
end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'state', 'cancelled',
           'finished_ms', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('EXPIRE', KEYS[1], ARGV[1])
if job[3] and state == 'accepted' then
  redis.call('HINCRBY', KEYS[2], 'waiting_jobs', -1)
  redis.call('HINCRBY', KEYS[2], 'waiting_chars', -job[4])
elseif job[3] then
  redis.call('HINCRBY', KEYS[2], 'running_jobs', -1)
  redis.call('HINCRBY', KEYS[2], 'running_chars', -job[4])
  redis.call('HINCRBY', KEYS[2], 'running_since_ms', -job[5])
end
return {'cancelled', worker}
