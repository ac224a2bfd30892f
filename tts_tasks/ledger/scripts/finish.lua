-- End a job. Rule 3: only the newest attempt counts.
-- KEYS[1] job; KEYS[2] load of the lane that is named like the job's tag (same slot)
-- ARGV[1] attempt ("*": whatever the attempt, if nobody runs it), ARGV[2] worker,
-- ARGV[3] succeeded | failed, ARGV[4] result as JSON, ARGV[5] retention_s
-- returns 1, or 0 if the attempt is stale
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker', 'result', 'counted',
                       'chars', 'claimed_ms')
local mine = job[1] == 'running' and job[2] == ARGV[1] and job[3] == ARGV[2]
if ARGV[1] == '*' then
  mine = job[1] == 'accepted' or (job[1] == 'running' and job[3] == ARGV[2])
end
-- asked again after a lost reply
local repeated = job[1] == ARGV[3] and job[4] == ARGV[4]
                 and (ARGV[1] == '*' or (job[2] == ARGV[1] and job[3] == ARGV[2]))
if not mine and not repeated then
  return 0
end

-- Note how long a job took, claim to finish. The newest counts for a tenth, and no single one for
-- much: neither an adopted book nor one that sat through an outage may be taken for the pace.
local function measure(took_ms, chars, now_ms)
  local known = redis.call('HMGET', KEYS[2], 'paced_ms', 'paced_chars')
  local paced_ms, paced_chars = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  if paced_chars > 0 then
    local char_ms = paced_ms / paced_chars
    local took_char_ms = math.max(char_ms / 4, math.min(char_ms * 4, took_ms / chars))
    chars = math.min(chars, paced_chars)
    took_ms = took_char_ms * chars
  end
  redis.call('HSET', KEYS[2], 'paced_ms', 0.9 * paced_ms + took_ms,
             'paced_chars', 0.9 * paced_chars + chars, 'paced_at_ms', now_ms)
end

if mine then
  local now = redis.call('TIME')
  local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('HSET', KEYS[1], 'state', ARGV[3], 'result', ARGV[4], 'finished_ms', now_ms)
  redis.call('EXPIRE', KEYS[1], ARGV[5])
  if job[5] and job[1] == 'accepted' then
    redis.call('HINCRBY', KEYS[2], 'waiting_jobs', -1)
    redis.call('HINCRBY', KEYS[2], 'waiting_chars', -job[6])
  elseif job[5] then
    redis.call('HINCRBY', KEYS[2], 'running_jobs', -1)
    redis.call('HINCRBY', KEYS[2], 'running_chars', -job[6])
    redis.call('HINCRBY', KEYS[2], 'running_since_ms', -job[7])
    if ARGV[3] == 'succeeded' then
      measure(math.max(1, now_ms - job[7]), tonumber(job[6]), now_ms)
    end
  end
end
return 1
