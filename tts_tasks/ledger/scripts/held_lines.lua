-- Read which lines of a batch a worker has. For one worker: the others' are not sent.
-- KEYS[1] taken
-- ARGV[1] worker
-- returns its lines, in no order
local lines, taken = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #taken, 2 do
  if taken[i + 1] == ARGV[1] then
    lines[#lines + 1] = taken[i]
  end
end
return lines
