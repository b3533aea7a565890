#!lua flags=allow-oom
-- sweep: make threads with expired claims ready, forget old deletions, correct statistics that may be wrong, and ring if
-- ready threads wait and no drain is running.
--
-- KEYS   1 ready  2 claims  3 tokens  4 bell  5 drain  6 deleted  7 swept   (as in enqueue.lua)
--        8 served  string  "<time (ms)> <home id> <inode>": a worker of that home serves the shard; kept for a week
--        9 waiting  10 stats  11 parked   (as in enqueue.lua); stats also has: lost -> tasks that other programs removed from
--                          mailboxes, less tasks that they added; counted_at -> time (ms) at which a sweep counted
-- ARGV   1 ms for which a doorbell counts as outstanding
--        2 s after which a deletion may be forgotten
--        3 ms for which claims hold: a claim that ends later was made before the clock was set back
--        4 "<home id> <inode>" if this worker serves the shard, else ""
--        5 prefix of "mailbox:<thread>" in a mailbox's key; see claim.lua
--
-- If a thread has been ready for longer than a doorbell counts as outstanding, clients' doorbells count as lost, however
-- recent they are. Then a sweep rings unless another sweep's doorbell is outstanding.
--
-- Returns { ring, expired }: ring is 1 if the caller must publish a doorbell.

local ready, claims, tokens, bell, drain = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, stats, parked = KEYS[9], KEYS[10], KEYS[11]

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

-- Look at each mailbox: Redis, or another program, lost or changed something without a script.
local function count_again()
  local heads, tasks = {}, 0
  local function look_at(thread)
    local mailbox = ARGV[5] .. 'mailbox:' .. thread
    local head = redis.call('XRANGE', mailbox, '-', '+', 'COUNT', 1)[1]
    tasks = tasks + redis.call('XLEN', mailbox)
    return head and string.match(head[1], '^%d+')
  end

  for _, key in ipairs({ ready, claims }) do
    for _, thread in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      local head = redis.call('HEXISTS', parked, thread) == 0 and look_at(thread)
      if head then
        heads[#heads + 1], heads[#heads + 2] = head, thread
      elseif key == ready then
        redis.call('ZREM', ready, thread)
      end
    end
  end
  for _, thread in ipairs(redis.call('HKEYS', parked)) do
    look_at(thread)
  end

  redis.call('DEL', waiting)
  for first = 1, #heads, 1000 do -- Lua unpacks at most a few thousand values
    redis.call('ZADD', waiting, unpack(heads, first, math.min(first + 999, #heads)))
  end
  local known, counts = 0, redis.call('HGETALL', stats)
  for i = 1, #counts, 2 do
    local number = tonumber(counts[i + 1]) or 0
    if string.find(counts[i], '^accepted:') then
      known = known + number
    elseif string.find(counts[i], '^lag:') or counts[i] == 'dropped' then
      known = known - number
    end
  end
  redis.call('HSET', stats, 'lost', string.format('%.0f', known - tasks), 'counted_at', string.format('%.0f', now))
end

local ring = 0
if redis.call('EXISTS', drain) == 0 and redis.call('ZCOUNT', ready, '-inf', now) > 0 then
  local is_overdue = redis.call('ZCOUNT', ready, '-inf', now - ARGV[1]) > 0 and redis.call('GET', bell) ~= 'sweep'
  if is_overdue or redis.call('EXISTS', bell) == 0 then
    redis.call('SET', bell, 'sweep', 'PX', ARGV[1])
    ring = 1
  end
end

-- Every thread with tasks is parked, ready or claimed. Other programs may have changed a mailbox. If there are few threads, count
-- once a minute, and at once if the sizes differ; if there are many, only if the sizes differ, and once a minute.
local unparked = redis.call('ZCARD', ready) + redis.call('ZCARD', claims)
local counted_at = tonumber(redis.call('HGET', stats, 'counted_at') or 0) or 0
local are_few = unparked + redis.call('HLEN', parked) <= 1000
local is_old = math.abs(now - counted_at) >= 60000
local differ = redis.call('ZCARD', waiting) ~= unparked
if counted_at == 0 or (are_few and (is_old or differ)) or (is_old and differ) then
  count_again()
end

return { ring, #expired }
