-- fence: begin a new epoch of a thread. From now on enqueue.lua refuses tasks of writers with an older one.
--
-- KEYS   1 writers  hash  as in enqueue.lua; :epoch -> the newest epoch
--        2 deployment  hash  the deployment record
-- ARGV   1 s after which it may be forgotten
--        2 the record's shard epochs as the caller knows them
--
-- Returns the epoch: at least Redis' clock in ms, and so above all earlier epochs, even those that Redis lost. If the record has
-- other shard epochs, or is missing, the reply is an error that begins with EPOCHS, as in enqueue.lua.

if redis.call('HGET', KEYS[2], 'epochs') ~= ARGV[2] then
  return redis.error_reply('EPOCHS the deployment record has other shard epochs than the caller')
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local epoch = math.max(now, tonumber(redis.call('HGET', KEYS[1], ':epoch') or '0') + 1)
redis.call('HSET', KEYS[1], ':epoch', string.format('%.0f', epoch))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return epoch
