#!lua flags=allow-oom
-- sweep: make threads with expired claims ready, forget old deletions, and ring if ready threads wait and no drain is
-- running.
--
-- KEYS   1 ready  2 claims  3 tokens  4 bell  5 drain  6 deleted  7 swept   (as in enqueue.lua)
--        8 served  string  "<time (ms)> <home id> <inode>": a worker of that home serves the shard; kept for a week
-- ARGV   1 ms for which a doorbell counts as outstanding
--        2 s after which a deletion may be forgotten
--        3 ms for which claims hold: a claim that ends later was made before the clock was set back
--        4 "<home id> <inode>" if this worker serves the shard, else ""
--
-- If a thread has been ready for longer than a doorbell counts as outstanding, clients' doorbells count as lost, however
-- recent they are. Then a sweep rings unless another sweep's doorbell is outstanding.
--
-- Returns { ring, expired }: ring is 1 if the caller must publish a doorbell.

local ready, claims, tokens, bell, drain = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- If the clock was set back, do not let threads wait for a time far ahead.
for _, thread in ipairs(redis.call('ZRANGEBYSCORE', ready, '(' .. (now + 60000), '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', ready, now, thread)
end
for _, thread in ipairs(redis.call('ZRANGEBYSCORE', claims, '(' .. (now + tonumber(ARGV[3])), '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', claims, now, thread)
end

local expired = redis.call('ZRANGEBYSCORE', claims, '-inf', '(' .. now, 'LIMIT', 0, 1000)
for _, thread in ipairs(expired) do
  redis.call('ZREM', claims, thread)
  redis.call('HDEL', tokens, thread)
  redis.call('ZADD', ready, 'NX', now, thread)
end

redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - ARGV[2] * 1000)

redis.call('SET', KEYS[7], string.format('%.0f', now), 'EX', 604800)
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[8], string.format('%.0f ', now) .. ARGV[4], 'EX', 604800)
end

local ring = 0
if redis.call('EXISTS', drain) == 0 and redis.call('ZCOUNT', ready, '-inf', now) > 0 then
  local is_overdue = redis.call('ZCOUNT', ready, '-inf', now - ARGV[1]) > 0 and redis.call('GET', bell) ~= 'sweep'
  if is_overdue or redis.call('EXISTS', bell) == 0 then
    redis.call('SET', bell, 'sweep', 'PX', ARGV[1])
    ring = 1
  end
end
return { ring, #expired }
