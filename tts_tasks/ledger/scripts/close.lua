-- Strike a job off the index of open ones, if it is not open HERE. After a promotion the store that
-- is told to may be another one than the store in which the job has ended, and which was discarded.
-- KEYS[1] job; KEYS[2] index (another slot: on a cluster this script is not used)
-- ARGV[1] job id
-- returns 1, or 0 if the job is open here and stays in the index
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'accepted' or state == 'running' then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
