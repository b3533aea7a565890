#!lua flags=allow-oom
-- unpark: let a parked thread be claimed again, with its tasks in the same order.
--
-- KEYS   1 ready   zset  thread -> time (ms) from which it may be claimed
--        2 parked  hash  thread -> why it is parked
-- ARGV   1 thread
--
-- Returns 1 if the thread was parked, else 0.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('ZADD', KEYS[1], 'NX', now, ARGV[1])
return 1
