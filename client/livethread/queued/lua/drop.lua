#!lua flags=allow-oom
-- drop: remove the first entries of a parked thread's mailbox, and let the thread be claimed again.
--
-- KEYS   1 ready     zset    thread -> time (ms) from which it may be claimed
--        2 parked    hash    thread -> why it is parked
--        3 deleted   zset    thread -> time (ms) at which its deletion was accepted
--        4 mailbox   stream  unapplied tasks
--        5 writers   hash    see enqueue.lua
--        6 applied   string  last applied position
--        7 idempotency_keys
--                    zset    see enqueue.lua; deleted, since a dropped append has taken no idempotency key
--        8 waiting   zset    see enqueue.lua
--        9 stats     hash    dropped -> how many
-- ARGV   1 thread
--        2 why it is parked, as the caller has read it
--        3 s for which positions and counters are kept
--        4 prefix of clients' channels: see settle.lua, which publishes the same messages
--        5 how many positions follow, then the positions of the entries, in order
--        then pairs: writer, n
--          n         last counter of that writer among the entries: it counts as applied, so that no flush waits for it
--
-- Returns how many entries were removed: 0 if the thread is no longer parked for that reason, or the entries are not the
-- first of its mailbox. The caller drops only entries that it has seen.

local ready, parked, deleted = KEYS[1], KEYS[2], KEYS[3]
local mailbox, writers, applied_key = KEYS[4], KEYS[5], KEYS[6]
local thread, why, keep, acks_prefix, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local PAGE = 50

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function later_than(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  ams, aseq, bms, bseq = tonumber(ams), tonumber(aseq), tonumber(bms), tonumber(bseq)
  return ams > bms or (ams == bms and aseq > bseq)
end

if redis.call('HGET', parked, thread) ~= why then
  return 0
end

local from, seen = '-', 0
while seen < count do
  local found = redis.call('XRANGE', mailbox, from, '+', 'COUNT', math.min(count - seen, PAGE))
  if #found == 0 then
    return 0
  end
  for _, entry in ipairs(found) do
    seen = seen + 1
    if entry[1] ~= ARGV[5 + seen] then
      return 0
    end
    from = '(' .. entry[1]
  end
end

for i = 6, 5 + count do
  redis.call('XDEL', mailbox, ARGV[i])
end

-- The applied position is the last entry's, but never beyond the tail: another program may have forged the entry.
local last, tail, applied = ARGV[5 + count], redis.call('HGET', writers, 'tail'), redis.call('GET', applied_key)
if tail and later_than(last, tail) then
  last = tail
end
if tail and (not applied or later_than(last, applied)) then
  applied = last
  redis.call('SET', applied_key, applied)
end

local acks = {}
for i = 6 + count, #ARGV, 2 do
  -- An entry may claim a counter that its writer never reached.
  local n, accepted = tonumber(ARGV[i + 1]), redis.call('HGET', writers, ARGV[i])
  if accepted then -- else the writer was forgotten: its client closed it
    n = math.min(n, tonumber(string.match(accepted, '^%d+')))
    if n > tonumber(redis.call('HGET', writers, 'a:' .. ARGV[i]) or '0') then
      redis.call('HSET', writers, 'a:' .. ARGV[i], string.format('%.0f', n))
    end
  end
  local line = string.format('applied %s %s %s:%.0f', thread, applied or '0-0', ARGV[i], n)
  acks[#acks + 1] = { acks_prefix .. string.match(ARGV[i], '^[^.]*'), line }
end
redis.call('EXPIRE', applied_key, keep)
redis.call('EXPIRE', writers, keep)
redis.call('DEL', KEYS[7])

redis.call('HDEL', parked, thread)
local head = redis.call('XRANGE', mailbox, '-', '+', 'COUNT', 1)[1]
if not head then
  redis.call('DEL', mailbox)
  -- No task is accepted after a deletion, so a deletion was the last of the entries.
  redis.call('ZREM', deleted, thread)
else
  redis.call('ZADD', ready, 'NX', now, thread)
  redis.call('ZADD', KEYS[8], string.match(head[1], '^%d+'), thread)
end
for _, message in ipairs(acks) do
  redis.call('PUBLISH', message[1], message[2])
end
redis.pcall('HINCRBY', KEYS[9], 'dropped', count) -- last, as in settle.lua
return count
