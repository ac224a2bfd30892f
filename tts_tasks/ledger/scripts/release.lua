-- Take a job back from a worker that is dead, leaving or gave up this attempt.
-- KEYS[1] job
-- ARGV[1] worker, ARGV[2] attempt or "*", ARGV[3] 1 if it counts against the job
-- returns {"released", strikes} | {"not_held", state}
local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or (ARGV[2] ~= '*' and job[3] ~= ARGV[2]) then
  return {'not_held', job[1] or 'missing'}
end
redis.call('HSET', KEYS[1], 'state', 'accepted', 'worker', '')
return {'released', redis.call('HINCRBY', KEYS[1], 'strikes', tonumber(ARGV[3]))}
