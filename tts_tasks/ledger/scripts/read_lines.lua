-- Read jobs of a batch's lines. As JSON: a reply of many parts costs its reader more than the rest.
-- KEYS[1] what a job's key begins with
-- ARGV    lines
-- returns for each line, one a row, its fields as a JSON object, or nothing if it has no job
local rows = {}
for i = 1, #ARGV do
  local raw, job = redis.call('HGETALL', KEYS[1] .. ARGV[i]), {}
  for at = 1, #raw, 2 do
    job[raw[at]] = raw[at + 1]
  end
  rows[i] = #raw > 0 and cjson.encode(job) or ''
end
return table.concat(rows, '\n')
