#!lua flags=allow-oom
-- rest: end a drain, unless a thread is ready.
--
-- KEYS   1 ready   zset    thread -> time (ms) from which it may be claimed
--        2 drain   string  heartbeat of a running drain
-- ARGV   1 token of this drain
--        2 "1" to end it even if a thread is ready
--
-- Returns 1 if a thread is ready. Once the drain has ended, its heartbeat is gone and the next enqueue rings.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local due = redis.call('ZCOUNT', KEYS[1], '-inf', now) > 0
if (not due or ARGV[2] == '1') and redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
return due and 1 or 0
