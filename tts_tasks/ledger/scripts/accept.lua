-- Accept a job, once. Rule 2: the ledger is written before the queue is rung.
-- An online job is refused where its lane is full, or where it would not be done by its deadline.
-- What is refused leaves nothing behind; what was accepted before is not asked again.
-- KEYS[1] job; of an online job also KEYS[2] load and KEYS[3] lease of its lane (same slot)
-- ARGV[1] characters, ARGV[2] deadline in ms from now ("": none), ARGV[3] jobs that may wait in the
-- lane (0: any number), ARGV[4] ms in which a lane without a primary gets one,
-- ARGV[5] 1 if it waits from now on, 0 if it is to be spoken later (claim counts it then),
-- then field, value, field, value ... of the new job
-- returns {1 if it is new else 0, time in ms}
--         | {"full" | "late", time in ms until it would be done, time in ms after which to ask
--            again} (-1: unknown, or never)
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {0, now_ms}
end
local fields = {'state', 'accepted', 'attempt', 0, 'strikes', 0, 'accepted_ms', now_ms}
if KEYS[2] and ARGV[5] == '1' then
  local load = redis.call('HMGET', KEYS[2], 'waiting_jobs', 'waiting_chars', 'running_jobs',
                          'running_chars', 'running_since_ms', 'paced_ms', 'paced_chars',
                          'paced_at_ms')
  for i = 1, 8 do
    load[i] = tonumber(load[i] or '0')
  end
  local chars, deadline_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
  local alone_ms, rest_ms, done_ms = -1, -1, -1
  -- What was measured long ago is believed only while newer measurements are on their way: else a
  -- lane that was slow once would refuse for ever.
  if load[7] > 0 and (load[1] + load[3] > 0 or now_ms - load[8] < 600000) then
    local char_ms = load[6] / load[7]
    alone_ms = chars * char_ms
    -- of the running jobs, without the time since their claims
    rest_ms = math.max(0, load[4] * char_ms - (load[3] * now_ms - load[5]))
    if redis.call('EXISTS', KEYS[3]) == 0 then
      rest_ms = rest_ms + ARGV[4]
    end
    done_ms = math.ceil(rest_ms + load[2] * char_ms + alone_ms)
  end
  if ARGV[3] ~= '0' and load[1] >= tonumber(ARGV[3]) then
    return {'full', done_ms, math.ceil(rest_ms)}
  end
  if deadline_ms and done_ms > deadline_ms then
    return {'late', done_ms, alone_ms > deadline_ms and -1 or done_ms - deadline_ms}
  end
  if deadline_ms then
    fields[#fields + 1] = 'deadline_ms'
    fields[#fields + 1] = now_ms + deadline_ms
  end
  fields[#fields + 1] = 'counted'
  fields[#fields + 1] = 1
  redis.call('HINCRBY', KEYS[2], 'waiting_jobs', 1)
  redis.call('HINCRBY', KEYS[2], 'waiting_chars', chars)
end
redis.call('HSET', KEYS[1], 'chars', ARGV[1], unpack(fields))
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
return {1, now_ms}
