#!lua flags=allow-oom
-- claim: take ready threads and return their tasks.
--
-- KEYS   1 ready     zset    thread -> time (ms) from which it may be claimed
--        2 claims    zset    thread -> deadline (ms) of its claim
--        3 tokens    hash    thread -> token of the claim's holder
--        4 attempts  hash    thread -> "<failed attempts in a row> <why it was put back>"
--        5 parked    hash    thread -> why it is parked
--        6 bell      string  a doorbell is outstanding
--        7 drain     string  heartbeat of a running drain
--        8 looked    string  time (ms) of this call; kept for a week
--        9 waiting  zset    see enqueue.lua
--       10 deployment  hash  the deployment record
-- ARGV   1 token of this drain
--        2 lifetime of the claims, in ms
--        3 maximum threads     4 maximum tasks in all     5 maximum tasks of one thread
--        6 lifetime of the heartbeat, in ms
--        7 lifetime of a doorbell, in ms
--        8 prefix of "mailbox:<thread>" in a mailbox's key: only this script knows which threads are ready, so their
--          keys cannot be passed; they carry the shard's hash tag, like all keys above
--        9 "1" at the first claim of a drain: the doorbell that started it is answered
--       10 bytes of lines to take, roughly; the last thread may exceed them
--       11 threads to look at after those               12 maximum tasks of each
--       13 maximum tasks of all of them                 14 bytes of their lines, roughly
--       15 the record's field that says which home serves the shard, or "" to take threads for any home
--       16 id of the drain's home       17 its inode      18 the whole value of the field, stored if it is missing
--
-- If another home serves the shard, the reply is an error that begins with HOME: a worker that was paused while the shard was
-- moved takes no more threads.
--
-- Threads are taken in the order in which they became ready, and go to the end if they have more tasks. If a few threads
-- use up the budgets, threads with few tasks are taken as well, so that they do not wait for the hot ones.
--
-- Returns { ring, { thread, put_back, entries }, ... }. put_back is what `attempts` holds of the thread, or "". An entry is
-- { position, writer, n, task, lines }, with its traceparent at the end if it has one; an entry with other fields is
-- { position, { field, value, ... } }. ring is 1 if more threads are ready and the caller must publish a doorbell, so that
-- idle workers wake in a chain.

local ready, claims, tokens, attempts, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local bell, drain, waiting = KEYS[6], KEYS[7], KEYS[9]
local token, ttl = ARGV[1], tonumber(ARGV[2])
local max_threads, budget, per_thread = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[15] ~= '' then
  local home = redis.call('HGET', KEYS[10], ARGV[15])
  if not home then
    redis.call('HSET', KEYS[10], ARGV[15], ARGV[18])
  else
    local known = cjson.decode(home)
    if known.id ~= ARGV[16] or known.inode ~= ARGV[17] then
      return redis.error_reply('HOME another home serves this shard: ' .. home)
    end
  end
end

redis.call('SET', drain, token, 'PX', ARGV[6])
redis.call('SET', KEYS[8], string.format('%.0f', now), 'EX', 604800)
if ARGV[9] == '1' then
  redis.call('DEL', bell)
end

-- Release expired claims, and claims and delays that end too far in the future because the clock was set back.
for _, range in ipairs({ { '-inf', '(' .. now }, { '(' .. (now + ttl), '+inf' } }) do
  for _, thread in ipairs(redis.call('ZRANGEBYSCORE', claims, range[1], range[2], 'LIMIT', 0, 1000)) do
    redis.call('ZREM', claims, thread)
    redis.call('HDEL', tokens, thread)
    redis.call('ZADD', ready, 'NX', now, thread)
  end
end
for _, thread in ipairs(redis.call('ZRANGEBYSCORE', ready, '(' .. (now + 60000), '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', ready, now, thread)
end

-- Whether an entry has the fields that enqueue.lua writes: the reply then leaves out their names.
local function is_usual(fields)
  return (#fields == 8 or #fields == 10 and fields[9] == 'traceparent')
    and fields[1] == 'writer' and fields[3] == 'n' and fields[5] == 'task' and fields[7] == 'lines'
end

-- An entry as the reply holds it.
local function bare(entry)
  local fields = entry[2]
  return is_usual(fields) and { entry[1], fields[2], fields[4], fields[6], fields[8], fields[10] } or entry
end

-- The entry after *last* if it is a patch derived from that append: both are applied in one batch.
local function derived_patch(mailbox, last)
  local following = redis.call('XRANGE', mailbox, '(' .. last[1], '+', 'COUNT', 1)[1]
  if following and is_usual(following[2]) then
    local is_json, header = pcall(cjson.decode, following[2][6])
    if is_json and type(header) == 'table' and header.derived == true then
      return bare(following)
    end
  end
end

-- The first entries of a mailbox, as many as the budgets allow, and at least one.
local bytes = tonumber(ARGV[10])
local function take(mailbox, most)
  local entries, from = {}, '-'
  while #entries < most and (bytes > 0 or #entries == 0) do
    local count = math.min(most - #entries, 50)
    local found = redis.call('XRANGE', mailbox, from, '+', 'COUNT', count)
    for _, entry in ipairs(found) do
      from = '(' .. entry[1]
      for i = 2, #entry[2], 2 do
        bytes = bytes - #entry[2][i]
      end
      entries[#entries + 1] = bare(entry)
      if bytes <= 0 then
        break
      end
    end
    if bytes > 0 and #found < count then
      return entries
    end
  end
  entries[#entries + 1] = derived_patch(mailbox, entries[#entries])
  return entries
end

local reply = { 0 }
local any_parked = redis.call('HLEN', parked) > 0
local any_attempts = redis.call('HLEN', attempts) > 0
local removed, emptied, deadlines, held = {}, {}, {}, {}

local function claim(thread)
  removed[#removed + 1] = thread
  if not (any_parked and redis.call('HEXISTS', parked, thread) == 1) then
    local entries = take(ARGV[8] .. 'mailbox:' .. thread, math.min(budget, per_thread))
    if #entries > 0 then
      budget = budget - #entries
      deadlines[#deadlines + 1], deadlines[#deadlines + 2] = now + ttl, thread
      held[#held + 1], held[#held + 2] = thread, token
      reply[#reply + 1] = { thread, any_attempts and redis.call('HGET', attempts, thread) or '', entries }
    else -- Redis, or another program, lost the mailbox
      emptied[#emptied + 1] = thread
    end
  end
end

-- Store the claims together: the number of calls costs more than their size.
local function write_down()
  for _, what in ipairs({
    { 'ZREM', ready, removed },
    { 'ZREM', waiting, emptied },
    { 'ZADD', claims, deadlines },
    { 'HSET', tokens, held },
  }) do
    local values = what[3]
    for first = 1, #values, 1000 do -- Lua unpacks at most a few thousand values
      redis.call(what[1], what[2], unpack(values, first, math.min(first + 999, #values)))
    end
  end
  removed, emptied, deadlines, held = {}, {}, {}, {}
end

for _, thread in ipairs(redis.call('ZRANGEBYSCORE', ready, '-inf', now, 'LIMIT', 0, max_threads)) do
  if budget <= 0 or bytes <= 0 then
    break
  end
  claim(thread)
end
write_down()

if budget <= 0 or bytes <= 0 then
  local few = tonumber(ARGV[12])
  budget, bytes = tonumber(ARGV[13]), tonumber(ARGV[14])
  for _, thread in ipairs(redis.call('ZRANGEBYSCORE', ready, '-inf', now, 'LIMIT', 0, ARGV[11])) do
    if budget <= 0 or bytes <= 0 or #reply > max_threads then
      break
    end
    if redis.call('XLEN', ARGV[8] .. 'mailbox:' .. thread) <= few then
      claim(thread)
    end
  end
  write_down()
end

if redis.call('ZCOUNT', ready, '-inf', now) > 0 and redis.call('SET', bell, '1', 'NX', 'PX', ARGV[7]) then
  reply[1] = 1
end
return reply
