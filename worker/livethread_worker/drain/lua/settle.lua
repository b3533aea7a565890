#!lua flags=allow-oom
-- settle: finish the claims of one drain: trim mailboxes, acknowledge, release threads.
--
-- KEYS   1 ready     zset    thread -> time (ms) from which it may be claimed
--        2 claims    zset    thread -> deadline (ms) of its claim
--        3 tokens    hash    thread -> token of the claim's holder
--        4 attempts  hash    thread -> "<failed attempts in a row> <why it was put back>"
--        5 parked    hash    thread -> why it is parked
--        6 deployment  hash  the deployment record
--        7 waiting   zset    see enqueue.lua
--        8 stats     hash    lag:<ms> (or lag:inf) -> how many tasks were applied within that time, but not within the next
--                            shorter one; lag_ms -> sum of all their times; failures, parked, dropped -> how many
--        then for each thread
--          mailbox   stream  unapplied tasks
--          applied   string  last applied position
--          writers   hash    see enqueue.lua
--          idempotency_keys
--                    zset    see enqueue.lua
-- ARGV   1 token of this drain
--        2 s for which positions and counters are kept
--        3 prefix of the shard's channels "acks:<client>" and "changes"
--        4 the record's field that says which home serves the shard, or "" to settle for any home
--        5 id of the drain's home        6 its inode
--        then for each thread: id, position, outcome, detail, times, count, and count times: writer, n
--          position  last applied position, or "" if no task was applied
--          n         that writer's last counter up to the position: clients identify tasks by it, since positions
--                    may repeat after Redis lost data
--          outcome   done | later (detail: ms until it may be claimed again, and why) | failed (as later, and counts
--                    as an attempt) | parked (detail: JSON with the reason) | deleted (its Redis keys go, too)
--          times     "<ms>:<tasks> ...": the times in the positions of the applied tasks, each with the number of tasks
--
-- Each client gets one message for all threads, on its own channel: a line "applied <thread> <position> <writer>:<n>"
-- for each of its writers, and "parked <thread> <detail>". A client's name is the part before the first dot in the ids of
-- its writers, or the whole id.
--
-- "changes" gets one message: the threads of which tasks were applied, separated by spaces.
--
-- Returns how many of the claims this drain still held. A stale token changes nothing: the drain that holds the
-- thread now skips applied tasks by their counters. If another home serves the shard now, this drain holds none: what it
-- applied is in a home that was left.

local ready, claims, tokens, attempts, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, stats = KEYS[7], KEYS[8]
local token, keep, channels = ARGV[1], ARGV[2], ARGV[3]
local lag_bounds = { 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000 } -- ms

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[4] ~= '' then
  local home = redis.call('HGET', KEYS[6], ARGV[4])
  local known = home and cjson.decode(home)
  if known and (known.id ~= ARGV[5] or known.inode ~= ARGV[6]) then
    return 0
  end
end

local function split(position)
  local ms, seq = string.match(position, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function later_than(a, b)
  local ams, aseq = split(a)
  local bms, bseq = split(b)
  return ams > bms or (ams == bms and aseq > bseq)
end

-- Return for each thread whether this drain still holds its claim. Batched: a call costs more than its work.
local function are_held(threads)
  local held = {}
  for first = 1, #threads, 1000 do -- Lua unpacks at most a few thousand values
    local last = math.min(first + 999, #threads)
    for i, holder in ipairs(redis.call('HMGET', tokens, unpack(threads, first, last))) do
      held[first + i - 1] = holder == token
    end
  end
  return held
end

local function remove(command, key, threads)
  for first = 1, #threads, 1000 do
    redis.call(command, key, unpack(threads, first, math.min(first + 999, #threads)))
  end
end

-- Remove the tasks up to a position; return whether later ones are left.
local function trim(mailbox, position)
  local newest = redis.call('XREVRANGE', mailbox, '+', '-', 'COUNT', 1)[1]
  if newest and later_than(newest[1], position) then
    local ms, seq = split(position)
    redis.call('XTRIM', mailbox, 'MINID', string.format('%.0f-%.0f', ms, seq + 1))
    return true
  end
  redis.call('DEL', mailbox)
  return false
end

local messages, clients = {}, {}

local function publish(writer, line)
  local client = string.match(writer, '^[^.]*')
  if messages[client] then
    table.insert(messages[client], line)
  else
    messages[client] = { line }
    table.insert(clients, client)
  end
end

-- Acknowledge each writer's last applied counter to its client, and store it unless the writer was forgotten: its client
-- closed it and will not ask for it.
local function acknowledge(thread, position, writers, first, count)
  local names, counters = {}, {}
  for i = first, first + count * 2 - 1, 2 do
    local writer, n = ARGV[i], ARGV[i + 1]
    names[#names + 1] = writer
    publish(writer, 'applied ' .. thread .. ' ' .. position .. ' ' .. writer .. ':' .. n)
  end
  for i = 1, #names, 1000 do
    for j, accepted in ipairs(redis.call('HMGET', writers, unpack(names, i, math.min(i + 999, #names)))) do
      if accepted then
        local at = i + j - 1
        counters[#counters + 1], counters[#counters + 2] = 'a:' .. names[at], ARGV[first + at * 2 - 1]
      end
    end
  end
  for i = 1, #counters, 1000 do
    if redis.call('HSET', writers, unpack(counters, i, math.min(i + 999, #counters))) > 0 then
      redis.call('EXPIRE', writers, keep) -- enqueue set it when it accepted the task, which may be long ago
    end
  end
end

-- Report a parked thread to the clients of all its writers: their tasks may wait.
local function publish_parked(thread, writers, detail)
  for _, writer in ipairs(redis.call('HKEYS', writers)) do
    if writer ~= 'tail' and not string.find(writer, ':', 1, true) then
      publish(writer, 'parked ' .. thread .. ' ' .. detail)
    end
  end
end

-- What is counted in `stats`; of applied tasks, the number in each bucket and the sum of their times.
local counts, lags, lag_ms = {}, {}, 0

local function count(field, number)
  counts[field] = (counts[field] or 0) + number
end

local function count_lags(times)
  for ms, number in string.gmatch(times, '(%d+):(%d+)') do
    local lag, bucket = math.max(0, now - tonumber(ms)), 1
    while lag_bounds[bucket] and lag > lag_bounds[bucket] do
      bucket = bucket + 1
    end
    lags[bucket] = (lags[bucket] or 0) + number
    lag_ms = lag_ms + lag * number
  end
end

local threads, starts = {}, {}
local arg = 7
while arg <= #ARGV do
  threads[#threads + 1], starts[#starts + 1] = ARGV[arg], arg
  arg = arg + 6 + tonumber(ARGV[arg + 5]) * 2
end

local held, mine, emptied, changed = are_held(threads), {}, {}, {}
local any_attempts = redis.call('HLEN', attempts) > 0

for number, thread in ipairs(threads) do
  if held[number] then
    mine[#mine + 1] = thread
    local key, start = 5 + number * 4, starts[number]
    local mailbox, applied, writers, idempotency_keys = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
    local position, outcome, detail = ARGV[start + 1], ARGV[start + 2], ARGV[start + 3]
    local times, writer_count, first = ARGV[start + 4], tonumber(ARGV[start + 5]), start + 6
    local has_more
    if position ~= '' then
      changed[#changed + 1] = thread
      has_more = trim(mailbox, position)
      local before = redis.call('SET', applied, position, 'EX', keep, 'GET')
      if before and later_than(before, position) then
        redis.call('SET', applied, before, 'EX', keep)
      end
      acknowledge(thread, position, writers, first, writer_count)
      count_lags(times)
    else
      has_more = redis.call('XLEN', mailbox) > 0
    end

    local resets_attempts = position ~= '' or outcome == 'parked' or outcome == 'deleted' or not has_more
    if any_attempts and resets_attempts then
      redis.call('HDEL', attempts, thread)
    end
    if not has_more or outcome == 'parked' or outcome == 'deleted' then
      emptied[#emptied + 1] = thread
    elseif position ~= '' then
      local head = redis.call('XRANGE', mailbox, '-', '+', 'COUNT', 1)[1]
      redis.call('ZADD', waiting, string.match(head[1], '^%d+'), thread)
    end
    if outcome == 'deleted' then
      if has_more then
        count('dropped', redis.call('XLEN', mailbox))
      end
      redis.call('DEL', mailbox, applied, writers, idempotency_keys)
    elseif has_more and outcome == 'parked' then
      redis.call('HSET', parked, thread, detail)
      count('parked', 1)
      publish_parked(thread, writers, detail)
    elseif has_more and outcome == 'done' then
      redis.call('ZADD', ready, 'NX', now, thread)
    elseif has_more then
      local wait, why = string.match(detail, '^(%d+) (.*)$')
      if outcome == 'failed' then
        count('failures', 1)
      end
      local failed = tonumber(string.match(redis.call('HGET', attempts, thread) or '', '^%d+') or '0')
      redis.call('HSET', attempts, thread, (outcome == 'failed' and failed + 1 or failed) .. ' ' .. why)
      redis.call('ZADD', ready, 'NX', now + tonumber(wait), thread)
    end
  end
end
remove('ZREM', claims, mine)
remove('HDEL', tokens, mine)
remove('ZREM', waiting, emptied)
for bucket, number in pairs(lags) do
  counts['lag:' .. (lag_bounds[bucket] or 'inf')] = number
end
if lag_ms > 0 then
  counts.lag_ms = lag_ms
end
for _, client in ipairs(clients) do
  redis.call('PUBLISH', channels .. 'acks:' .. client, table.concat(messages[client], '\n'))
end
if #changed > 0 then
  redis.call('PUBLISH', channels .. 'changes', table.concat(changed, ' '))
end
-- Last: if the counts are damaged, everything else is done.
for field, increase in pairs(counts) do
  redis.pcall('HINCRBY', stats, field, string.format('%.0f', increase))
end
return #mine
