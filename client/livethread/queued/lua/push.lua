#!lua flags=allow-oom
-- push: put a Celery message into its queue even if Redis has reached its memory limit.
--
-- KEYS   1 queue  list  a queue of Celery
-- ARGV   1 the message
--        2 maximum length of the queue
--
-- Returns the queue's length, or the error OOM if it is too long.

if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return redis.error_reply('OOM the queue is full, and so is Redis')
end
return redis.call('LPUSH', KEYS[1], ARGV[1])
