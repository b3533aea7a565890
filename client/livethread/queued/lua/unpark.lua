#!lua flags=allow-oom
-- unpark: let a parked thread be claimed again, with its tasks in the same order.
--
-- KEYS   1 ready    zset    thread -> time (ms) from which it may be claimed
--        2 parked   hash    thread -> why it is parked
--        3 waiting  zset    see enqueue.lua
--        4 mailbox  stream  unapplied tasks
-- ARGV   1 thread
--
-- Returns 1 if the thread was parked, else 0.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then
  return 0
end
local head = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1]
if head then
  redis.call('ZADD', KEYS[1], 'NX', now, ARGV[1])
  redis.call('ZADD', KEYS[3], string.match(head[1], '^%d+'), ARGV[1])
end
return 1
