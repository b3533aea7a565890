-- load_states --
-- Rollouts and threads of a JSON array of ids.
SELECT r.thread_id, r.path, r.rollout_bytes, r.next_ordinal, r.meta_offset, r.meta_bytes, r.applied, r.observed, t.*
  FROM rollouts AS r JOIN threads AS t ON t.thread_id = r.thread_id
 WHERE r.thread_id IN (SELECT value FROM json_each(:thread_ids))

-- load_writers --
-- Counters of a JSON array of writers.
SELECT thread_id, writer, n, lines
  FROM writers
 WHERE thread_id IN (SELECT value FROM json_each(:thread_ids))
   AND writer IN (SELECT value FROM json_each(:writers))

-- save_rollout --
INSERT INTO rollouts (thread_id, path, rollout_bytes, next_ordinal, meta_offset, meta_bytes, applied, observed)
VALUES (:thread_id, :path, :rollout_bytes, :next_ordinal, :meta_offset, :meta_bytes, :applied, :observed)
    ON CONFLICT (thread_id) DO UPDATE
   SET path = excluded.path, rollout_bytes = excluded.rollout_bytes, next_ordinal = excluded.next_ordinal,
       meta_offset = excluded.meta_offset, meta_bytes = excluded.meta_bytes, applied = excluded.applied,
       observed = excluded.observed

-- save_writer --
INSERT INTO writers (thread_id, writer, n, lines) VALUES (:thread_id, :writer, :n, :lines)
    ON CONFLICT (thread_id, writer) DO UPDATE SET n = excluded.n, lines = excluded.lines

-- read_thread --
SELECT r.path, t.* FROM threads AS t JOIN rollouts AS r ON r.thread_id = t.thread_id WHERE t.thread_id = :thread_id
