-- Note up to which physical line a batch's file has been read; never less than before.
-- KEYS[1] batch
-- ARGV[1] line
-- returns the line that stands
local line = tonumber(redis.call('HGET', KEYS[1], 'last_line') or '0')
if tonumber(ARGV[1]) > line then
  redis.call('HSET', KEYS[1], 'last_line', ARGV[1])
  return tonumber(ARGV[1])
end
return line
