-- Prolong a lease if it is exactly this holder's under exactly this epoch.
-- KEYS[1] lease
-- ARGV[1] "epoch:holder", ARGV[2] TTL in ms
-- returns 1, or 0 if the lease is gone or somebody else's
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
