#!lua flags=allow-oom
-- take: begin to answer a read.
--
-- KEYS   1 reads  zset    read -> time (ms) until which its caller waits; only reads that no worker has taken
--        2 read   string  exists as long as the read's caller waits: empty, then the worker that took the read
-- ARGV   1 id of the read
--        2 name of the worker
--
-- Returns 1 if the caller waits and no other worker has taken the read, else 0.

redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('GET', KEYS[2]) ~= '' then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'XX', 'KEEPTTL')
return 1
