-- Read the lines of a batch in the order in which they ended. Only the newest are kept: a position
-- counts from the first line that ended, whatever the list still holds.
-- KEYS[1] batch; KEYS[2] done
-- ARGV[1] position to begin at (from 0), ARGV[2] how many
-- returns {position of the first line that follows, line ...}
local total = tonumber(redis.call('HGET', KEYS[1], 'done_total') or '0')
local dropped = total - redis.call('LLEN', KEYS[2])
local from = math.max(tonumber(ARGV[1]), dropped)
local first = from - dropped
local lines = redis.call('LRANGE', KEYS[2], first, first + tonumber(ARGV[2]) - 1)
table.insert(lines, 1, from)
return lines
