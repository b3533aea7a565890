-- rest: end a drain, unless work became due in the meantime.
--
-- KEYS   1 ready   zset    thread -> time (ms) from which it may be claimed
--        2 drain   string  heartbeat of a drain at work
-- ARGV   1 token of this drain
--
-- Returns 1 where a thread is due and the drain must go on. Otherwise the heartbeat is gone: the next enqueue
-- rings.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('ZCOUNT', KEYS[1], '-inf', now) > 0 then
  return 1
end
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return 0
