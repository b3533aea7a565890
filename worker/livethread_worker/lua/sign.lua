#!lua flags=allow-oom
-- sign: note that a worker lives, and forget the signs of workers that were killed.
--
-- KEYS   1 workers  hash  worker -> "<time (ms) of its last sign> <JSON>"
-- ARGV   1 worker
--        2 JSON: its host, home, shards, and the seconds for which the sign shows that it lives
--        3 ms after which a sign is forgotten

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
local signs = redis.call('HGETALL', KEYS[1])
for i = 1, #signs, 2 do
  local at = tonumber(string.match(signs[i + 1], '^%d+'))
  if not at or math.abs(now - at) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], signs[i])
  end
end
