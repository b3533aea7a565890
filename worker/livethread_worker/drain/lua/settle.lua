#!lua flags=allow-oom
-- settle: finish the claims of one drain.
--
-- KEYS   1 ready     zset    thread -> time (ms) from which it may be claimed
--        2 claims    zset    thread -> deadline (ms) of its claim
--        3 tokens    hash    thread -> token of the claim's holder
--        4 attempts  hash    thread -> failed attempts in a row
--        5 parked    hash    thread -> why it is parked
--        then for each thread
--          mailbox   stream  unapplied tasks
--          applied   string  last applied position
--          writers   hash    see enqueue.lua
--          idempotency_keys
--                    zset    see enqueue.lua
-- ARGV   1 token of this drain
--        2 s for which positions and counters are kept
--        3 prefix of clients' channels
--        then for each thread: id, position, outcome, detail, count, and count times: writer, n
--          position  last applied position, or "" where none was
--          n         last counter of that writer up to the position: what a client knows its tasks by, since
--                    positions may repeat after Redis lost data
--          outcome   done | later (detail: ms until it may be claimed again) | failed (as later, and counts as
--                    an attempt) | parked (detail: JSON that says why) | deleted (its keys go, too)
--
-- Each client gets one message for all threads, on its own channel: a line "applied <thread> <position> <writer>:<n>"
-- for each of its writers, and "parked <thread> <detail>". A client's name is the part before the first dot in the ids of
-- its writers, or the whole id.
--
-- Returns how many of the claims still were this drain's. A stale token changes nothing: whoever holds the
-- thread now finds by the counters what is applied.

local ready, claims, tokens, attempts, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, keep, acks_prefix = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function split(position)
  local ms, seq = string.match(position, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function later_than(a, b)
  local ams, aseq = split(a)
  local bms, bseq = split(b)
  return ams > bms or (ams == bms and aseq > bseq)
end

-- Whether these claims are held by the token that the caller gives, asked together, since each call costs more than
-- what it does.
local function are_held(threads)
  local held = {}
  for first = 1, #threads, 1000 do -- Lua unpacks some thousand values at most
    local last = math.min(first + 999, #threads)
    for i, holder in ipairs(redis.call('HMGET', tokens, unpack(threads, first, last))) do
      held[first + i - 1] = holder == token
    end
  end
  return held
end

local function release(threads)
  for first = 1, #threads, 1000 do
    local last = math.min(first + 999, #threads)
    redis.call('ZREM', claims, unpack(threads, first, last))
    redis.call('HDEL', tokens, unpack(threads, first, last))
  end
end

-- Remove what stands in a mailbox up to a position; return whether something is left.
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

-- Note how far each writer is, and acknowledge its tasks.
local function note_counters(thread, position, writers, first, count)
  local counters = {}
  for i = first, first + count * 2 - 1, 2 do
    local writer, n = ARGV[i], ARGV[i + 1]
    counters[#counters + 1], counters[#counters + 2] = 'a:' .. writer, n
    publish(writer, 'applied ' .. thread .. ' ' .. position .. ' ' .. writer .. ':' .. n)
  end
  for i = 1, #counters, 1000 do
    if redis.call('HSET', writers, unpack(counters, i, math.min(i + 999, #counters))) > 0 then
      redis.call('EXPIRE', writers, keep) -- which otherwise is done when it is written to by an enqueue
    end
  end
end

-- Report that a thread is parked to all of its writers: their tasks may wait.
local function publish_parked(thread, writers, detail)
  for _, writer in ipairs(redis.call('HKEYS', writers)) do
    if writer ~= 'tail' and not string.find(writer, ':', 1, true) then
      publish(writer, 'parked ' .. thread .. ' ' .. detail)
    end
  end
end

local threads, starts = {}, {}
local arg = 4
while arg <= #ARGV do
  threads[#threads + 1], starts[#starts + 1] = ARGV[arg], arg
  arg = arg + 5 + tonumber(ARGV[arg + 4]) * 2
end

local held, mine = are_held(threads), {}
local any_attempts = redis.call('HLEN', attempts) > 0

for number, thread in ipairs(threads) do
  if held[number] then
    mine[#mine + 1] = thread
    local key, start = 2 + number * 4, starts[number]
    local mailbox, applied, writers, idempotency_keys = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
    local position, outcome, detail = ARGV[start + 1], ARGV[start + 2], ARGV[start + 3]
    local count, first = tonumber(ARGV[start + 4]), start + 5
    local is_left
    if position ~= '' then
      is_left = trim(mailbox, position)
      local before = redis.call('SET', applied, position, 'EX', keep, 'GET')
      if before and later_than(before, position) then
        redis.call('SET', applied, before, 'EX', keep)
      end
      note_counters(thread, position, writers, first, count)
    else
      is_left = redis.call('XLEN', mailbox) > 0
    end

    local is_over = position ~= '' or outcome == 'parked' or outcome == 'deleted' or not is_left
    if any_attempts and is_over then
      redis.call('HDEL', attempts, thread)
    end
    if outcome == 'deleted' then
      redis.call('DEL', mailbox, applied, writers, idempotency_keys)
    elseif is_left and outcome == 'parked' then
      redis.call('HSET', parked, thread, detail)
      publish_parked(thread, writers, detail)
    elseif is_left and outcome == 'done' then
      redis.call('ZADD', ready, 'NX', now, thread)
    elseif is_left then
      if outcome == 'failed' then
        redis.call('HINCRBY', attempts, thread, 1)
      end
      redis.call('ZADD', ready, 'NX', now + tonumber(detail), thread)
    end
  end
end
release(mine)
for _, client in ipairs(clients) do
  redis.call('PUBLISH', acks_prefix .. client, table.concat(messages[client], '\n'))
end
return #mine
