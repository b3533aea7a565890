-- enqueue: put tasks of any number of threads of one shard into their mailboxes, in order, each at most once.
--
-- KEYS   1 ready     zset    thread -> time (ms) from which it may be claimed
--        2 claims    zset    thread -> deadline (ms) of its claim
--        3 tokens    hash    thread -> token of the claim's holder
--        4 parked    hash    thread -> why it is parked
--        5 bell      string  a doorbell is outstanding
--        6 drain     string  heartbeat of a running drain
--        7 wake      list    wakes a lingering drain
--        8 deleted   zset    thread -> time (ms) at which its deletion was accepted
--        9 waiting  zset    thread -> time (ms) in the position of its first unapplied task, unless it is parked
--       10 stats    hash    accepted:<op> (or accepted:other), refused, duplicates, repeated_keys -> how many; see StatisticsReader
--       11 deployment  hash  the deployment record
--        then for each thread
--          mailbox   stream  unapplied tasks; the entry id is the task's position
--          writers   hash    writer -> "<n> <position>" last accepted; tail -> last position given out;
--                            a:<writer> -> its last counter that is applied (see settle.lua);
--                            :epoch -> the newest epoch (see fence.lua);
--          applied   string  last applied position
--          idempotency_keys
--                    zset    idempotency key of an append -> time (ms) at which it was last accepted: the newest 1,000
-- ARGV   1 ms for which a doorbell counts as outstanding
--        2 s after which a writer's counter may be forgotten
--        3 maximum entries of a mailbox
--        4 the record's shard epochs as the caller knows them: it may know another shard for a thread
--        then for each thread: id, writer, floor, epoch, count, and count times:
--          n, kind, expected, idempotency key, task, lines, traceparent
--          floor     counter up to which the writer knows its tasks to be applied; it still holds all later ones
--          epoch     the thread's newest epoch when the writer opened it; "": the writer is never fenced
--          kind      "create" or "delete" if the task does that to the thread; "pair" if the next task is accepted
--                    with this one or not at all; else ""
--          expected  position that must be the thread's last, or ""; ignored if the idempotency key was accepted before
--          idempotency key
--                    of the append, or "". A repeated one is accepted like any task; the worker, which knows all keys
--                    that the thread ever took, then ignores the append
--          traceparent
--                    trace context of the caller, which a worker's span continues, or "": the entry has no such field then
--
-- Returns { ring, { status, last, position, tail, fresh }, ... }, a reply for each thread. If ring is 1, the caller
-- must publish a doorbell. last and position belong to the writer's last accepted task; this call accepted the last
-- *fresh* tasks, at consecutive positions. With no tasks, a thread is only made ready.
-- If the record has other shard epochs, or is missing, nothing is accepted, and the reply is an error that begins with EPOCHS.
-- status is
--   ok        all are accepted (now, or by an earlier call whose reply was lost)
--   gap       the task after last is missing: Redis lost data, or the caller skipped one
--   full      the mailbox is full, or has one place for a pair; the tasks after last are not accepted
--   moved     expected is not tail; the tasks after last are not accepted
--   exists    the thread to create has tasks of other writers
--   fenced    the thread has a newer epoch; the tasks after last are not accepted
--   deleted   the thread's deletion was accepted before; the tasks after last are not accepted
-- A thread's new writer makes the script forget some old ones: all their tasks are applied, and the last was accepted longer
-- ago than ARGV[2]. A writer that has ended is forgotten at once; see Mailboxes.sign_off.
-- A repeated call is safe: a task whose n was accepted before is not added again.

local call = redis.call
local ready, claims, tokens, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local bell, drain, wake, deleted = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local waiting, stats = KEYS[9], KEYS[10]
local bell_ttl, writer_ttl, bound = ARGV[1], ARGV[2], tonumber(ARGV[3])
local idempotency_keys_kept = 1000

if call('HGET', KEYS[11], 'epochs') ~= ARGV[4] then
  return redis.error_reply('EPOCHS the deployment record has other shard epochs than the caller')
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_text = string.format('%.0f', now)

local function is_taken(idempotency_keys, idempotency_key)
  return idempotency_key ~= '' and call('ZSCORE', idempotency_keys, idempotency_key)
end

-- Return whether the idempotency key is new.
local function remember(idempotency_keys, idempotency_key)
  local is_new = call('ZADD', idempotency_keys, now, idempotency_key) == 1
  call('ZREMRANGEBYRANK', idempotency_keys, 0, -1 - idempotency_keys_kept)
  call('EXPIRE', idempotency_keys, writer_ttl)
  return is_new
end

local accepted_field = {
  create_thread = 'accepted:create_thread',
  append_items = 'accepted:append_items',
  update_thread_metadata = 'accepted:update_thread_metadata',
  archive_thread = 'accepted:archive_thread',
  unarchive_thread = 'accepted:unarchive_thread',
  delete_thread = 'accepted:delete_thread',
}
local counts, appends = {}, 0

local function count_one(field)
  counts[field] = (counts[field] or 0) + 1
end

-- Look at some writers of a thread, and forget those that were silent too long. Each new writer pays for a look at several
-- others, so a thread has few more than were active within that time.
local function forget_silent(writers)
  local fields = call('HRANDFIELD', writers, 16, 'WITHVALUES')
  for i = 1, #fields, 2 do
    local n, since = string.match(fields[i + 1], '^(%d+) (%d+)-%d+$')
    if since and tonumber(since) < now - writer_ttl * 1000 and call('HGET', writers, 'a:' .. fields[i]) == n then
      call('HDEL', writers, fields[i], 'a:' .. fields[i])
    end
  end
end

-- If a new thread's UUIDv7 holds a time ahead of our clock, note the latest such id: the next shard epoch begins later, so that
-- the thread keeps its shard.
local function note_if_ahead(thread)
  local made_at = string.sub(thread, 15, 15) == '7' and tonumber(string.sub(thread, 1, 8) .. string.sub(thread, 10, 13), 16)
  if made_at and made_at > now + 30000 and thread > (call('HGET', KEYS[11], 'ahead') or '') then
    call('HSET', KEYS[11], 'ahead', thread)
  end
end

-- Threads with tasks, and pairs of position and thread where the mailbox was empty: they are handled together at the end,
-- since the overhead of a call exceeds its work.
local unapplied, heads = {}, {}
local any_deleted = call('ZCARD', deleted) > 0

-- Make threads ready that are neither parked nor claimed, and release expired claims. Return how many became ready.
local function make_ready(first, last)
  local deadlines = call('ZMSCORE', claims, unpack(unapplied, first, last))
  local any_parked = call('HLEN', parked) > 0
  local due = {}
  for i = first, last do
    local thread, deadline = unapplied[i], deadlines[i - first + 1]
    if not (any_parked and call('HEXISTS', parked, thread) == 1) then
      if deadline and tonumber(deadline) < now then
        call('ZREM', claims, thread)
        call('HDEL', tokens, thread)
        deadline = nil
      end
      if not deadline then
        due[#due + 1] = now_text
        due[#due + 1] = thread
      end
    end
  end
  return #due > 0 and call('ZADD', ready, 'NX', unpack(due)) or 0
end

local replies = { 0 }
local key, arg = 12, 5

while key <= #KEYS do
  local mailbox, writers, applied_key, idempotency_keys = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
  local thread, writer, floor = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2])
  local epoch, count = tonumber(ARGV[arg + 3]), tonumber(ARGV[arg + 4])
  key, arg = key + 4, arg + 5

  local known = call('HMGET', writers, writer, 'tail', ':epoch')
  local last, position, tail, newest = 0, '0-0', known[2], tonumber(known[3] or 0)
  if known[1] then
    local n, p = string.match(known[1], '^(%d+) (.+)$')
    last, position = tonumber(n), p
  end
  if floor > last then
    last = floor
  end
  -- The thread's last position: if Redis lost the tail, the last applied one.
  local last_position = tail or call('GET', applied_key) or '0-0'
  local high_text, low = string.match(last_position, '^(%d+)-(%d+)$')
  local high = tonumber(high_text)
  local is_new_second = not tail or math.floor(high / 1000) ~= math.floor(now / 1000)

  local length = call('XLEN', mailbox)
  local status, accepted = 'ok', 0
  local is_deleted = any_deleted and call('ZSCORE', deleted, thread)

  for base = arg, arg + count * 7 - 1, 7 do
    local n, kind, expected, idempotency_key = tonumber(ARGV[base]), ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
    if status == 'ok' and n > last then
      if n > last + 1 then
        status = 'gap'
      elseif is_deleted then
        status = 'deleted'
      elseif kind == 'create' and last == 0 and tail then
        status = 'exists'
      elseif epoch and epoch < newest then
        status = 'fenced'
      elseif length + (kind == 'pair' and 1 or 0) >= bound then
        status = 'full'
      elseif expected ~= '' and expected ~= last_position and not is_taken(idempotency_keys, idempotency_key) then
        status = 'moved'
      else
        if high < now then
          high, high_text, low = now, now_text, 0
        else
          low = low + 1
        end
        position = high_text .. '-' .. low
        local task, lines, traceparent = ARGV[base + 4], ARGV[base + 5], ARGV[base + 6]
        if traceparent == '' then
          call('XADD', mailbox, position, 'writer', writer, 'n', ARGV[base], 'task', task, 'lines', lines)
        else
          call('XADD', mailbox, position, 'writer', writer, 'n', ARGV[base], 'task', task, 'lines', lines, 'traceparent', traceparent)
        end
        if length == 0 then
          heads[#heads + 1], heads[#heads + 2] = high_text, thread
        end
        if lines ~= '' then -- only appends have lines
          appends = appends + 1
        else
          count_one(accepted_field[string.match(task, '"op"%s*:%s*"([a-z_]+)"')] or 'accepted:other')
        end
        if idempotency_key ~= '' and not remember(idempotency_keys, idempotency_key) then
          count_one('repeated_keys')
        end
        if kind == 'create' then
          note_if_ahead(thread)
        elseif kind == 'delete' then
          call('ZADD', deleted, now, thread)
          is_deleted, any_deleted = true, true
        end
        last, tail, last_position, length, accepted = n, position, position, length + 1, accepted + 1
      end
    elseif status == 'ok' then
      count_one('duplicates')
    end
  end
  if status ~= 'ok' then
    count_one('refused')
  end
  arg = arg + count * 7

  if accepted > 0 then
    call('HSET', writers, writer, string.format('%.0f %s', last, position), 'tail', tail)
    if epoch and epoch > newest then -- Redis lost it
      call('HSET', writers, ':epoch', string.format('%.0f', epoch))
    end
    if not known[1] then
      forget_silent(writers)
    end
    if is_new_second then -- once a second is enough
      call('EXPIRE', writers, writer_ttl)
    end
  end
  if length > 0 then
    unapplied[#unapplied + 1] = thread
  end
  replies[#replies + 1] = { status, last, position, last_position, accepted }
end

for first = 1, #heads, 1000 do -- Lua unpacks at most a few thousand values
  call('ZADD', waiting, unpack(heads, first, math.min(first + 999, #heads)))
end
if appends > 0 then
  counts[accepted_field.append_items] = (counts[accepted_field.append_items] or 0) + appends
end
for field, count in pairs(counts) do
  redis.pcall('HINCRBY', stats, field, count) -- a full Redis cannot count what it refuses, but replies
end

local became_ready = 0
for first = 1, #unapplied, 1000 do
  became_ready = became_ready + make_ready(first, math.min(first + 999, #unapplied))
end

if call('EXISTS', drain) == 1 then
  if became_ready > 0 and call('EXISTS', wake) == 0 then
    call('LPUSH', wake, '1')
    call('PEXPIRE', wake, 1000)
  end
elseif call('ZCOUNT', ready, '-inf', now) > 0 and call('SET', bell, '1', 'NX', 'PX', bell_ttl) then
  replies[1] = 1
end

return replies
