-- Append a finished segment to a job's log, with the engine's state after it.
-- Rule 3: only the newest attempt counts.
-- KEYS[1] job; KEYS[2] its segment log
-- ARGV[1] attempt, ARGV[2] worker, ARGV[3] number of the segment (from 1), ARGV[4] segments in all,
-- ARGV[5] plan, ARGV[6] engine state as JSON, ARGV[7] ttl_s of the log, then field, value ... of the
-- entry
-- returns 1 (also if it is there already), or 0 if a newer attempt has the job or it has ended
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker', 'segments_done')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or job[3] ~= ARGV[2] then
  return 0
end
local number, done = tonumber(ARGV[3]), tonumber(job[4] or '0')
if number <= done then
  return 1  -- asked again after a lost reply, or spoken again
end
if number > done + 1 then
  return redis.error_reply('ERR segment ' .. number .. ' would follow on ' .. done)
end
redis.call('XADD', KEYS[2], number .. '-0', unpack(ARGV, 8))
redis.call('EXPIRE', KEYS[2], ARGV[7])
-- A death after new progress is bad luck, not a job that kills its workers: no strikes are left.
redis.call('HSET', KEYS[1], 'segments_done', number, 'segments', ARGV[4], 'plan', ARGV[5],
           'engine_state', ARGV[6], 'strikes', 0)
return 1
