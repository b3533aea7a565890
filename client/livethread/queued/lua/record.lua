#!lua flags=allow-oom
-- record: change fields of the deployment record, if all of them still have the values that the caller has read.
--
-- KEYS   1 deployment  hash  the deployment record
-- ARGV   for each field: its name, the value that it has, or "" if it is missing, and its new value
--
-- Returns 1 if the fields were changed, else 0.

for i = 1, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i + 1] then
    return 0
  end
end
for i = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
end
return 1
