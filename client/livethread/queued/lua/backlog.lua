-- backlog: say how far workers are with threads of one shard.
--
-- KEYS   1 parked   hash    thread -> why it is parked
--        2 deleted  zset    thread -> time (ms) at which its deletion was accepted
--        3 deployment  hash  the deployment record
--        then for each thread
--          mailbox  stream  unapplied tasks
--          writers  hash    see enqueue.lua
--          applied  string  last applied position
-- ARGV   1 the record's shard epochs as the caller knows them
--        then the threads
--
-- Returns { head, tail, applied, why, deleted } for each thread: the positions of its first unapplied task, of its last task
-- and of its last applied one, and why it is parked, each "" if there is none; deleted is 1 or 0.
-- If the record has other shard epochs, the reply is an error that begins with EPOCHS. Without a record, nothing is accepted.

local parked, deleted = KEYS[1], KEYS[2]
if (redis.call('HGET', KEYS[3], 'epochs') or ARGV[1]) ~= ARGV[1] then
  return redis.error_reply('EPOCHS the deployment record has other shard epochs than the caller')
end

local replies = {}
for i = 1, #ARGV - 1 do
  local thread = ARGV[i + 1]
  local mailbox, writers, applied = KEYS[i * 3 + 1], KEYS[i * 3 + 2], KEYS[i * 3 + 3]
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
