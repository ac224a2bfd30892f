-- End lines of a batch, and count them in the batch and in their chunks in the same step.
-- Rule 3: only the newest attempt counts.
-- KEYS[1] batch; KEYS[2] chunks; KEYS[3] done; KEYS[4] taken; KEYS[5] what a job's key begins with
-- ARGV[1] worker, ARGV[2] how many ended lines are kept,
-- then for each line: line, chunk, attempt, succeeded | failed | cancelled, result as JSON
-- returns for each line 1 (also when asked again after a lost reply), or 0 if the attempt is stale
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local answers, ended, taken, counts, chunks = {}, {}, {}, {}, {}
for i = 3, #ARGV, 5 do
  local line, chunk, state = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local key = KEYS[5] .. line
  local job = redis.call('HMGET', key, 'state', 'attempt', 'worker', 'chunk', 'result')
  local mine = job[2] == ARGV[i + 2] and job[3] == ARGV[1] and job[4] == chunk
  if mine and job[1] == 'running' then
    redis.call('HSET', key, 'state', state, 'result', ARGV[i + 4], 'finished_ms', now_ms)
    ended[#ended + 1] = line
    taken[#taken + 1] = line
    taken[#taken + 1] = ''
    counts[state] = (counts[state] or 0) + 1
    chunks[chunk] = (chunks[chunk] or 0) + 1
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = (mine and job[1] == state and job[5] == ARGV[i + 4]) and 1 or 0
  end
end
if #ended == 0 then
  return answers
end
for state, number in pairs(counts) do
  redis.call('HINCRBY', KEYS[1], state, number)
end
for chunk, number in pairs(chunks) do
  redis.call('HINCRBY', KEYS[2], chunk, -number)
end
redis.call('HINCRBY', KEYS[1], 'done_total', #ended)
redis.call('RPUSH', KEYS[3], unpack(ended))
redis.call('LTRIM', KEYS[3], -tonumber(ARGV[2]), -1)
redis.call('HSET', KEYS[4], unpack(taken))
return answers
