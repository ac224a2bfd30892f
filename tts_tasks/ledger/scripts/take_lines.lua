-- Claim a run of a batch's lines for a worker. Rule 2: the message is a doorbell, this decides who
-- works on what. The run is charged to the batch's virtual time in the same step.
-- KEYS[1] batch; KEYS[2] ready; KEYS[3] taken; KEYS[4] runs; KEYS[5] what a job's key begins with
-- ARGV[1] worker, ARGV[2] nonce of this take: asked again after a lost reply, it gets the same run,
-- ARGV[3] max_jobs, ARGV[4] max_chars, ARGV[5] max_strikes,
-- ARGV[6] virtual time at which the run starts at the earliest,
-- ARGV[7] for so long, in ms, a line over which this worker failed is left to others (0: there are
-- none)
-- returns {"run", virtual time after it, "line chunk attempt strikes segments_done exhausted ..."}
--         | {"nothing"}. One string: a reply of many parts costs its reader more than the rest
local worker, nonce = ARGV[1], ARGV[2]
local max_jobs, max_chars, max_strikes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local elsewhere_ms = tonumber(ARGV[7])
local batch = redis.call('HMGET', KEYS[1], 'source', 'cancelled_ms', 'virtual_time', 'priority')
if not batch[1] then
  return {'nothing'}
end

local told = {}
local function tell(line, chunk, attempt, strikes, segments_done)
  told[#told + 1] = line .. ' ' .. chunk .. ' ' .. attempt .. ' ' .. strikes .. ' '
                    .. segments_done .. (strikes >= max_strikes and ' 1' or ' 0')
end

local last = redis.call('HGET', KEYS[4], worker)
if last and string.sub(last, 1, #nonce + 1) == nonce .. ' ' then
  for line in string.gmatch(string.sub(last, #nonce + 2), '%d+') do
    local job = redis.call('HMGET', KEYS[5] .. line, 'state', 'worker', 'nonce', 'chunk',
                           'attempt', 'strikes', 'segments_done')
    if job[1] == 'running' and job[2] == worker and job[3] == nonce then
      tell(line, job[4], job[5], tonumber(job[6]), job[7] or '0')
    end
  end
  if #told > 0 then
    return {'run', batch[3], table.concat(told, ' ')}
  end
end
if batch[2] then
  return {'nothing'}
end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local function is_left_to_others(job, strikes)
  -- a clock that was set back must not keep it from this worker for longer
  local age_ms = now_ms - tonumber(job[6] or '0')
  return job[5] == worker and strikes < max_strikes and age_ms >= 0 and age_ms < elsewhere_ms
end

local chars, lines, taken, left = 0, {}, {}, {}
for _, entry in ipairs(redis.call('LRANGE', KEYS[2], 0, max_jobs - 1)) do
  local line, length, chunk = string.match(entry, '^(%d+):(%d+):(%d+)$')
  local key = KEYS[5] .. line
  local job = redis.call('HMGET', key, 'attempt', 'strikes', 'segments_done', 'accepted_ms',
                         'struck_by', 'released_ms')
  local strikes = tonumber(job[2] or '0')
  if is_left_to_others(job, strikes) then
    left[#left + 1] = entry
  else
    -- a line that may have killed its worker takes no other with it
    if #lines > 0 and (strikes > 0 or chars + tonumber(length) > max_chars) then
      break
    end
    local attempt = tonumber(job[1] or '0') + 1
    redis.call('HSET', key, 'state', 'running', 'worker', worker, 'nonce', nonce,
               'attempt', attempt, 'strikes', strikes, 'claimed_ms', now_ms,
               'accepted_ms', job[4] or now_ms, 'chunk', chunk, 'chars', length)
    tell(line, chunk, attempt, strikes, job[3] or '0')
    chars = chars + tonumber(length)
    lines[#lines + 1] = line
    taken[#taken + 1] = line
    taken[#taken + 1] = worker
    if strikes > 0 then
      break
    end
  end
end
if #lines == 0 then
  return {'nothing'}
end
redis.call('LTRIM', KEYS[2], #lines + #left, -1)
for i = #left, 1, -1 do
  redis.call('LPUSH', KEYS[2], left[i])
end
redis.call('HSET', KEYS[3], unpack(taken))
redis.call('HSET', KEYS[4], worker, nonce .. ' ' .. table.concat(lines, ' '))
local start = math.max(tonumber(batch[3] or '0'), tonumber(ARGV[6]))
local virtual_time = string.format('%.17g', start + chars / tonumber(batch[4]))
redis.call('HSET', KEYS[1], 'virtual_time', virtual_time)
return {'run', virtual_time, table.concat(told, ' ')}
