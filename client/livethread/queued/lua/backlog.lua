-- backlog: say how far workers are with threads of one shard.
--
-- KEYS   1 parked   hash    thread -> why it is parked
--        2 deleted  zset    thread -> time (ms) at which its deletion was accepted
--        then for each thread
--          mailbox  stream  unapplied tasks
--          writers  hash    see enqueue.lua
--          applied  string  last applied position
-- ARGV   the threads
--
-- Returns { head, tail, applied, why, deleted } for each thread: the positions of its first unapplied task, of its last task
-- and of its last applied one, and why it is parked, each "" if there is none; deleted is 1 or 0.

local parked, deleted = KEYS[1], KEYS[2]
local replies = {}
for i, thread in ipairs(ARGV) do
  local mailbox, writers, applied = KEYS[i * 3], KEYS[i * 3 + 1], KEYS[i * 3 + 2]
  local head = redis.call('XRANGE', mailbox, '-', '+', 'COUNT', 1)[1]
  local tail = redis.call('HGET', writers, 'tail')
  if head and not tail then -- Redis lost it
    tail = redis.call('XREVRANGE', mailbox, '+', '-', 'COUNT', 1)[1][1]
  end
  replies[i] = {
    head and head[1] or '',
    tail or '',
    redis.call('GET', applied) or '',
    redis.call('HGET', parked, thread) or '',
    redis.call('ZSCORE', deleted, thread) and 1 or 0,
  }
end
return replies
