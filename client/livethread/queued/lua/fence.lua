-- fence: begin a new epoch of a thread. From now on enqueue.lua refuses tasks of writers with an older one.
--
-- KEYS   1 writers  hash  as in enqueue.lua; :epoch -> the newest epoch
-- ARGV   1 s after which it may be forgotten
--
-- Returns the epoch: at least Redis' clock in ms, and so above all earlier epochs, even those that Redis lost.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local epoch = math.max(now, tonumber(redis.call('HGET', KEYS[1], ':epoch') or '0') + 1)
redis.call('HSET', KEYS[1], ':epoch', string.format('%.0f', epoch))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return epoch
