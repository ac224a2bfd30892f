-- End a job. Rule 3: only the newest attempt counts.
-- KEYS[1] job; KEYS[2] batch and KEYS[3] its done list (same slot), or absent for an online job
-- ARGV[1] attempt ("*": whatever the attempt, if nobody runs it), ARGV[2] worker,
-- ARGV[3] succeeded | failed, ARGV[4] result as JSON, ARGV[5] line, ARGV[6] retention_s
-- returns {"ok", jobs of the batch still open (-1: unknown yet or no batch)} | {"stale", state}
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker', 'result')
local mine = job[1] == 'running' and job[2] == ARGV[1] and job[3] == ARGV[2]
if ARGV[1] == '*' then
  mine = job[1] == 'accepted' or (job[1] == 'running' and job[3] == ARGV[2])
end
-- asked again after a lost reply
local repeated = job[1] == ARGV[3] and job[4] == ARGV[4]
                 and (ARGV[1] == '*' or (job[2] == ARGV[1] and job[3] == ARGV[2]))
if not mine and not repeated then
  return {'stale', job[1] or 'missing'}
end
if mine then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'state', ARGV[3], 'result', ARGV[4],
             'finished_ms', now[1] * 1000 + math.floor(now[2] / 1000))
  if KEYS[2] then
    redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
    redis.call('RPUSH', KEYS[3], ARGV[5])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[6])
  end
end
if not KEYS[2] then
  return {'ok', -1}
end
local batch = redis.call('HMGET', KEYS[2], 'sealed', 'accepted', 'succeeded', 'failed')
if batch[1] ~= '1' then
  return {'ok', -1}
end
return {'ok', tonumber(batch[2]) - tonumber(batch[3] or '0') - tonumber(batch[4] or '0')}
