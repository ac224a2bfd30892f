-- Forget the segments of a job: they cannot be gone on from. Rule 3: only the newest attempt counts.
-- KEYS[1] job; KEYS[2] its segment log
-- ARGV[1] attempt, ARGV[2] worker
-- returns 1, or 0 if a newer attempt has the job or it has ended
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or job[3] ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'segments_done', 0)
redis.call('HDEL', KEYS[1], 'plan', 'engine_state')
redis.call('DEL', KEYS[2])
return 1
