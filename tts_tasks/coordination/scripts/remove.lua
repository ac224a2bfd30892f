-- Remove a lease if it is exactly the record that was seen: release by its holder, or deposition
-- by a watchdog. A plain DEL would remove the successor's.
-- KEYS[1] lease
-- ARGV[1] "epoch:holder"
-- returns 1, or 0 if another record (or none) is there
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
