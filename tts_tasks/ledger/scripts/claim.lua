-- Decide who works on a job. Rule 2: the message is a doorbell, this is the decision.
-- Rule 1: an online job is given only to the holder of the lane's lease under this very epoch.
-- KEYS[1] job; KEYS[2] lease, KEYS[3] load of the lane that is named like the job's tag (same slot)
-- ARGV[1] worker, ARGV[2] max_attempts, ARGV[3] "epoch:holder" the worker believes in, or "",
-- ARGV[4] nonce of this claim: asked again after a lost reply, it gets the same answer
-- returns {"claimed", attempt, request, meta, accepted_ms} | {"held", worker} |
--         {"ended", state, result} | {"missing"} | {"not_leader", lease} | {"exhausted", strikes} |
--         {"expired", ms since its deadline}
local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'result', 'request', 'meta',
                       'accepted_ms', 'strikes', 'lane', 'nonce', 'attempt',
                       'struck_workers', 'pardons', 'deadline_ms', 'chars', 'counted',
                       'claimed_ms')
local state = job[1]
if not state then
  return {'missing'}
end
if state ~= 'accepted' and state ~= 'running' then
  return {'ended', state, job[3] or ''}
end
local online = job[8] and job[8] ~= ''
if online then
  local lease = redis.call('GET', KEYS[2]) or ''
  if lease == '' or lease ~= ARGV[3] then
    return {'not_leader', lease}
  end
end
if state == 'running' then
  if job[2] ~= ARGV[1] then
    return {'held', job[2]}
  end
  if job[9] == ARGV[4] then
    return {'claimed', tonumber(job[10]), job[4], job[5], job[6]}
  end
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if job[13] and now_ms > tonumber(job[13]) then
  return {'expired', now_ms - job[13]}
end
-- The same worker anew: its earlier attempt died with its child process.
local strikes = tonumber(job[7] or '0')
if state == 'running' then
  local names = (strikes > 0 or tonumber(job[12] or '0') > 0) and job[11] or ''
  if not ('\n' .. names .. '\n'):find('\n' .. ARGV[1] .. '\n', 1, true) then
    names = names == '' and ARGV[1] or names .. '\n' .. ARGV[1]
  end
  strikes = redis.call('HINCRBY', KEYS[1], 'strikes', 1)
  redis.call('HSET', KEYS[1], 'struck_by', ARGV[1], 'released_ms', now_ms, 'struck_workers', names)
end
if strikes >= tonumber(ARGV[2]) then
  return {'exhausted', strikes}
end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[1], 'lease', ARGV[3],
           'nonce', ARGV[4], 'claimed_ms', now_ms)
if online and job[14] then
  if state == 'running' then
    redis.call('HINCRBY', KEYS[3], 'running_since_ms', now_ms - job[16])
  else
    if job[15] then
      redis.call('HINCRBY', KEYS[3], 'waiting_jobs', -1)
      redis.call('HINCRBY', KEYS[3], 'waiting_chars', -job[14])
    end
    redis.call('HSET', KEYS[1], 'counted', 1)
    redis.call('HINCRBY', KEYS[3], 'running_jobs', 1)
    redis.call('HINCRBY', KEYS[3], 'running_chars', job[14])
    redis.call('HINCRBY', KEYS[3], 'running_since_ms', now_ms)
  end
end
return {'claimed', attempt, job[4], job[5], job[6]}
