-- Remove a lease if it is exactly the record that was seen: release by its holder, or deposition
-- by a watchdog. A plain DEL would remove the successor's. The bell wakes whoever may lead next.
-- KEYS[1] lease, KEYS[2] bell (same slot)
-- ARGV[1] "epoch:holder"
-- returns 1, or 0 if another record (or none) is there
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
-- last, and allowed to fail: a full Redis must not keep a dead worker's lease
redis.pcall('XADD', KEYS[2], 'MAXLEN', 1, '*', 'removed', ARGV[1])
return 1
