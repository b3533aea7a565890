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
--          applied   string  last applied position; also the channel on which it is published
--          writers   hash    see enqueue.lua
--          keys      zset    see enqueue.lua
-- ARGV   1 token of this drain
--        2 s for which positions and counters are kept
--        then for each thread: id, position, outcome, detail, count, and count times: writer, n
--          position  last applied position, or "" where none was
--          n         last counter of that writer up to the position: what a client knows its tasks by, since
--                    positions may repeat after Redis lost data
--          outcome   done | later (detail: ms until it may be claimed again) | failed (as later, and counts as
--                    an attempt) | parked (detail: JSON that says why) | deleted (its keys go, too)
--
-- Returns how many of the claims still were this drain's. A stale token changes nothing: whoever holds the
-- thread now finds by the counters what is applied.

local ready, claims, tokens, attempts, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, keep = ARGV[1], ARGV[2]

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

local mine = 0
local key, arg = 6, 3

while key <= #KEYS do
  local mailbox, applied, writers, keys = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  local thread, position, outcome, detail = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local count, first = tonumber(ARGV[arg + 4]), arg + 5
  key, arg = key + 4, first + count * 2

  if redis.call('HGET', tokens, thread) == token then
    mine = mine + 1
    redis.call('ZREM', claims, thread)
    redis.call('HDEL', tokens, thread)

    if position ~= '' then
      local ms, seq = split(position)
      redis.call('XTRIM', mailbox, 'MINID', string.format('%.0f-%.0f', ms, seq + 1))
      local before = redis.call('GET', applied)
      if not before or later_than(position, before) then
        redis.call('SET', applied, position)
      end
      local message = 'applied ' .. position
      for i = first, arg - 1, 2 do
        redis.call('HSET', writers, 'a:' .. ARGV[i], ARGV[i + 1])
        message = message .. ' ' .. ARGV[i] .. ':' .. ARGV[i + 1]
      end
      redis.call('EXPIRE', applied, keep)
      redis.call('EXPIRE', writers, keep)
      redis.call('EXPIRE', keys, keep)
      redis.call('HDEL', attempts, thread)
      redis.call('PUBLISH', applied, message)
    end

    if outcome == 'deleted' then
      redis.call('DEL', mailbox, applied, writers, keys)
      redis.call('HDEL', attempts, thread)
    elseif redis.call('XLEN', mailbox) == 0 then
      redis.call('DEL', mailbox)
      redis.call('HDEL', attempts, thread)
    elseif outcome == 'parked' then
      redis.call('HSET', parked, thread, detail)
      redis.call('HDEL', attempts, thread)
      redis.call('PUBLISH', applied, 'parked ' .. detail)
    elseif outcome == 'done' then
      redis.call('ZADD', ready, 'NX', now, thread)
    else
      if outcome == 'failed' then
        redis.call('HINCRBY', attempts, thread, 1)
      end
      redis.call('ZADD', ready, 'NX', now + tonumber(detail), thread)
    end
  end
end
return mine
