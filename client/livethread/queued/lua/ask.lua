-- ask: record a read for workers to answer, and end a lingering drain so that its worker is free to.
--
-- KEYS   1 reads  zset    read -> time (ms) until which its caller waits; only reads that no worker has taken
--        2 read   string  exists as long as the read's caller waits: empty, then the worker that took the read
--        3 drain  string  heartbeat of a running drain
--        4 wake   list    wakes a lingering drain
-- ARGV   1 id of the read
--        2 ms for which its caller waits
--
-- A repeated call is safe.

local call = redis.call
local reads, read, drain, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, wait = ARGV[1], tonumber(ARGV[2])
local grace = 2000 -- ms after the timeout, in which the caller can still learn how far its read came

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

call('ZREMRANGEBYSCORE', reads, '-inf', now)
call('ZADD', reads, now + wait, id)
if call('PTTL', reads) < wait then
  call('PEXPIRE', reads, wait)
end
call('SET', read, '', 'NX', 'PX', wait + grace)
if call('EXISTS', drain) == 1 and call('EXISTS', wake) == 0 then
  call('LPUSH', wake, '1')
  call('PEXPIRE', wake, 1000)
end
