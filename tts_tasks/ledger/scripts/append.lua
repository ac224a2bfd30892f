-- Note a finished segment. Rule 3: only the newest attempt counts.
-- KEYS[1] job
-- ARGV[1] attempt, ARGV[2] worker, ARGV[3] segments done, ARGV[4] segments in all
-- returns 1, or 0 if a newer attempt has the job or it has ended
local job = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker', 'segments_done')
if job[1] ~= 'running' or job[2] ~= ARGV[1] or job[3] ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'segments_done', ARGV[3], 'segments', ARGV[4])
-- A death after new progress is bad luck, not a job that kills its workers.
if tonumber(ARGV[3]) > tonumber(job[4] or '0') then
  redis.call('HSET', KEYS[1], 'strikes', 0)
end
return 1
