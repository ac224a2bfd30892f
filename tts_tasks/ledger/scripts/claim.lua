-- Decide who works on a job. Rule 2: the message is a doorbell, this is the decision.
-- Rule 1: an online job is given only to the holder of the lane's lease under this very epoch.
-- KEYS[1] job; KEYS[2] lease of its lane (same slot), or absent for a batch job
-- ARGV[1] worker, ARGV[2] max_attempts, ARGV[3] "epoch:holder" the worker believes in, or ""
-- returns {"claimed", attempt, request, meta, accepted_ms} | {"held", worker} |
--         {"ended", state, result} | {"missing"} | {"not_leader", lease} | {"exhausted", strikes}
if KEYS[2] then
  local lease = redis.call('GET', KEYS[2]) or ''
  if lease == '' or lease ~= ARGV[3] then
    return {'not_leader', lease}
  end
end
local job = redis.call('HMGET', KEYS[1], 'state', 'worker', 'result', 'request', 'meta',
                       'accepted_ms', 'strikes')
local state = job[1]
if not state then
  return {'missing'}
end
if state ~= 'accepted' and state ~= 'running' then
  return {'ended', state, job[3] or ''}
end
-- The same worker again: its earlier attempt died with its child process, or the reply was lost.
if state == 'running' and job[2] ~= ARGV[1] then
  return {'held', job[2]}
end
local strikes = tonumber(job[7] or '0')
if state == 'running' then
  strikes = redis.call('HINCRBY', KEYS[1], 'strikes', 1)
end
if strikes >= tonumber(ARGV[2]) then
  return {'exhausted', strikes}
end
local now = redis.call('TIME')
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'state', 'running', 'worker', ARGV[1], 'lease', ARGV[3],
           'claimed_ms', now[1] * 1000 + math.floor(now[2] / 1000))
return {'claimed', attempt, job[4], job[5], job[6]}
