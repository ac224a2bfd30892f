-- Take lines back from a worker that is dead, leaving or gave up these attempts: they go to the
-- head of the ready lines, in the order of the file.
-- KEYS[1] ready; KEYS[2] taken; KEYS[3] what a job's key begins with
-- ARGV[1] worker, ARGV[2] 1 if they have not been tried: then these were no attempts,
-- then for each line: line, attempt or "*", 1 if it counts against the line
-- returns for each line its strikes, or -1 if the worker has it not
local answers, back = {}, {}
for i = 3, #ARGV, 3 do
  local line, attempt, strike = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = KEYS[3] .. line
  local job = redis.call('HMGET', key, 'state', 'worker', 'attempt', 'chars', 'chunk')
  local held = redis.call('HGET', KEYS[2], line) == ARGV[1]
               and (attempt == '*' or job[3] == attempt)
  local strikes = -1
  if held and job[1] == 'running' and job[2] == ARGV[1] then
    redis.call('HSET', key, 'state', 'accepted', 'worker', '')
    strikes = redis.call('HINCRBY', key, 'strikes', strike)
    if ARGV[2] == '1' then
      redis.call('HINCRBY', key, 'attempt', -1)
    end
  elseif held and job[1] == 'accepted' then
    -- `release.lua` has taken the job back, and counted; what is missing is its place in the list
    strikes = tonumber(redis.call('HGET', key, 'strikes'))
  end
  if strikes >= 0 then
    back[#back + 1] = {tonumber(line), line .. ':' .. job[4] .. ':' .. job[5]}
    redis.call('HSET', KEYS[2], line, '')
  end
  answers[#answers + 1] = strikes
end
table.sort(back, function(a, b) return a[1] > b[1] end)
for _, entry in ipairs(back) do
  redis.call('LPUSH', KEYS[1], entry[2])
end
return answers
