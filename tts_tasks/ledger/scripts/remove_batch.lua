-- Remove everything that the store holds of a batch. What comes later finds no batch.
-- KEYS[1] batch; KEYS[2] ready; KEYS[3] chunks; KEYS[4] done; KEYS[5] taken; KEYS[6] runs;
-- KEYS[7] reporting; KEYS[8] what a job's key begins with; KEYS[9] the same of its segment log
-- returns 1 if there was something
for _, line in ipairs(redis.call('HKEYS', KEYS[5])) do
  redis.call('UNLINK', KEYS[8] .. line, KEYS[9] .. line)
end
return redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]) > 0
       and 1 or 0
