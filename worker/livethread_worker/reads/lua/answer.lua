#!lua flags=allow-oom
-- answer: send one piece of an answer to the caller of a read.
--
-- KEYS   1 read    string  exists as long as the caller waits
--        2 answer  list    pieces that the caller has not received yet
-- ARGV   1 the piece
--        2 ms after which pieces are dropped if the caller does not receive them
--        3 maximum number of pieces in the list
--        4 "1" if it is the last piece
--
-- Returns ok, full (send the piece again later), or gone (the caller no longer waits; nothing is left).

local read, answer = KEYS[1], KEYS[2]

if redis.call('EXISTS', read) == 0 then
  redis.call('DEL', answer)
  return 'gone'
end
if redis.call('LLEN', answer) >= tonumber(ARGV[3]) then
  return 'full'
end
redis.call('RPUSH', answer, ARGV[1])
redis.call('PEXPIRE', answer, ARGV[2])
if ARGV[4] == '1' then
  redis.call('DEL', read)
end
return 'ok'
