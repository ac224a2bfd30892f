-- End lines of a batch, and count them in the batch and in their chunks in the same step.
-- Rule 3: only the newest attempt counts.
-- KEYS[1] batch; KEYS[2] chunks; KEYS[3] done; KEYS[4] taken; KEYS[5] what a job's key begins with
-- ARGV[1] worker, ARGV[2] how many ended lines are kept,
-- then for each line: "line chunk attempt state", result as JSON
-- (state: succeeded | failed | cancelled)
-- returns a string with one letter a line: 1 (also when asked again after a lost reply), or 0 if the
-- attempt is stale
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local answers, ended, taken, counts, chunks = {}, {}, {}, {}, {}
for i = 3, #ARGV, 2 do
  local line, chunk, attempt, state = string.match(ARGV[i], '^(%d+) (%d+) (%d+) (%l+)$')
  local result = ARGV[i + 1]
  local key = KEYS[5] .. line
  local job = redis.call('HMGET', key, 'state', 'attempt', 'worker', 'chunk')
  local mine = job[2] == attempt and job[3] == ARGV[1] and job[4] == chunk
  if mine and job[1] == 'running' then
    redis.call('HSET', key, 'state', state, 'result', result, 'finished_ms', now_ms)
    ended[#ended + 1] = line
    taken[#taken + 1] = line
    taken[#taken + 1] = ''
    counts[state] = (counts[state] or 0) + 1
    chunks[chunk] = (chunks[chunk] or 0) + 1
    answers[#answers + 1] = 1
  else
    local repeated = mine and job[1] == state and redis.call('HGET', key, 'result') == result
    answers[#answers + 1] = repeated and 1 or 0
  end
end
if #ended == 0 then
  return table.concat(answers)
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
return table.concat(answers)
