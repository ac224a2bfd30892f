-- Cancel a batch: what is ready or running in its window ends here and now, what is fed later ends
-- as it is fed, and attempts that run on are refused.
-- KEYS[1] batch; KEYS[2] ready; KEYS[3] chunks; KEYS[4] done; KEYS[5] taken; KEYS[6] runs;
-- KEYS[7] what a job's key begins with
-- ARGV[1] how many ended lines are kept
-- returns 1 if it is cancelled now (or was before), 0 if all its lines have ended or it is unknown
local batch = redis.call('HMGET', KEYS[1], 'source', 'cancelled_ms', 'sealed', 'accepted',
                         'succeeded', 'failed', 'cancelled')
if not batch[1] then
  return 0
end
if batch[2] then
  return 1
end
local ended_before = tonumber(batch[5] or '0') + tonumber(batch[6] or '0')
                     + tonumber(batch[7] or '0')
if batch[3] == '1' and ended_before >= tonumber(batch[4]) then
  return 0
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local ended, chunks = {}, {}
local function count(line, chunk)
  ended[#ended + 1] = tonumber(line)
  chunks[chunk] = (chunks[chunk] or 0) + 1
end
for _, entry in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local line, chunk = string.match(entry, '^(%d+):%d+:(%d+)$')
  count(line, chunk)
end
local taken = redis.call('HGETALL', KEYS[5])
for i = 1, #taken, 2 do
  local line, holder = taken[i], taken[i + 1]
  local key = KEYS[7] .. line
  local job = redis.call('HMGET', key, 'state', 'chunk')
  if job[1] == 'running' or job[1] == 'accepted' then
    redis.call('HSET', key, 'state', 'cancelled', 'finished_ms', now_ms)
    redis.call('HSET', KEYS[5], line, '')
    if holder ~= '' then  -- else it has been released and was counted as ready
      count(line, job[2])
    end
  end
end
redis.call('HSET', KEYS[1], 'cancelled_ms', now_ms)
redis.call('DEL', KEYS[2], KEYS[6])
redis.call('HINCRBY', KEYS[1], 'cancelled', #ended)
redis.call('HINCRBY', KEYS[1], 'done_total', #ended)
for chunk, number in pairs(chunks) do
  redis.call('HINCRBY', KEYS[3], chunk, -number)
end
table.sort(ended)
for _, line in ipairs(ended) do
  redis.call('RPUSH', KEYS[4], line)
end
redis.call('LTRIM', KEYS[4], -tonumber(ARGV[1]), -1)
return 1
