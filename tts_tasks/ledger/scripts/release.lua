-- Take a job back from a worker that is dead, leaving or gave up this attempt.
-- KEYS[1] job; KEYS[2] load of the lane that is named like the job's tag (same slot)
-- ARGV[1] worker, ARGV[2] attempt or "*", ARGV[3] 1 if it counts against the job
-- returns {"released", strikes} | {"not_held", state}
local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt', 'counted', 'chars',
                       'claimed_ms')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or (ARGV[2] ~= '*' and job[3] ~= ARGV[2]) then
  return {'not_held', job[1] or 'missing'}
end
redis.call('HSET', KEYS[1], 'state', 'accepted', 'worker', '')
if job[4] then
  redis.call('HINCRBY', KEYS[2], 'running_jobs', -1)
  redis.call('HINCRBY', KEYS[2], 'running_chars', -job[5])
  redis.call('HINCRBY', KEYS[2], 'running_since_ms', -job[6])
  redis.call('HINCRBY', KEYS[2], 'waiting_jobs', 1)
  redis.call('HINCRBY', KEYS[2], 'waiting_chars', job[5])
end
return {'released', redis.call('HINCRBY', KEYS[1], 'strikes', tonumber(ARGV[3]))}
