-- Take a job back from a worker that is dead, leaving or gave up this attempt.
-- KEYS[1] job; KEYS[2] load of the lane that is named like the job's tag (same slot)
-- ARGV[1] worker, ARGV[2] attempt or "*", ARGV[3] 1 if it counts against the job (a strike),
-- ARGV[4] what is known of how the attempt ended, as JSON, or "" (the newest is kept),
-- ARGV[5] so many times in the job's life such a strike is pardoned before it counts
-- returns {"released", strikes} | {"not_held", state}
local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'attempt', 'strikes', 'struck_workers',
                       'pardons', 'counted', 'chars', 'claimed_ms')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or (ARGV[2] ~= '*' and job[3] ~= ARGV[2]) then
  return {'not_held', job[1] or 'missing'}
end
redis.call('HSET', KEYS[1], 'state', 'accepted', 'worker', '')
if job[7] then
  redis.call('HINCRBY', KEYS[2], 'running_jobs', -1)
  redis.call('HINCRBY', KEYS[2], 'running_chars', -job[8])
  redis.call('HINCRBY', KEYS[2], 'running_since_ms', -job[9])
  redis.call('HINCRBY', KEYS[2], 'waiting_jobs', 1)
  redis.call('HINCRBY', KEYS[2], 'waiting_chars', job[8])
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'evidence', ARGV[4])
end
local strike = tonumber(ARGV[3])
if strike > 0 then
  local strikes, pardons = tonumber(job[4] or '0'), tonumber(job[6] or '0')
  local names = (strikes > 0 or pardons > 0) and job[5] or ''
  if not ('\n' .. names .. '\n'):find('\n' .. ARGV[1] .. '\n', 1, true) then
    names = names == '' and ARGV[1] or names .. '\n' .. ARGV[1]
  end
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'struck_by', ARGV[1], 'struck_workers', names,
             'released_ms', now[1] * 1000 + math.floor(now[2] / 1000))
  if pardons < tonumber(ARGV[5]) then
    strike = 0
    redis.call('HINCRBY', KEYS[1], 'pardons', 1)
  end
end
return {'released', redis.call('HINCRBY', KEYS[1], 'strikes', strike)}
