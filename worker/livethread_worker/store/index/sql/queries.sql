-- load_states --
-- Rollouts and threads; the ids are a JSON array.
SELECT r.path, r.rollout_bytes, r.next_ordinal, r.base_id, r.inherited_bytes, r.meta_offset, r.meta_bytes, r.applied, r.explicit_fields, r.phase,
       r.turn_id, r.epoch, r.forgotten_to, NULL AS position, t.*
  FROM rollouts AS r JOIN threads AS t ON t.thread_id = r.thread_id
 WHERE r.thread_id IN (SELECT value FROM json_each(:thread_ids))

-- load_writers --
-- Counters; the pairs of a thread and a writer are a JSON array. Two arrays would search each thread for every writer.
SELECT w.thread_id, w.writer, w.n, w.lines
  FROM json_each(:writers) AS p
 CROSS JOIN writers AS w ON w.thread_id = json_extract(p.value, '$[0]') AND w.writer = json_extract(p.value, '$[1]')

-- load_keys --
-- Idempotency keys that appends have taken; the pairs of a thread and a key are a JSON array.
SELECT k.thread_id, k.key
  FROM json_each(:keys) AS p
 CROSS JOIN idempotency_keys AS k ON k.thread_id = json_extract(p.value, '$[0]') AND k.key = json_extract(p.value, '$[1]')

-- all_writers --
SELECT writer, n, lines FROM writers WHERE thread_id = :thread_id

-- all_keys --
SELECT key FROM idempotency_keys WHERE thread_id = :thread_id

-- save_rollout --
INSERT INTO rollouts
       (thread_id, path, rollout_bytes, next_ordinal, base_id, inherited_bytes, meta_offset, meta_bytes, applied,
        explicit_fields, phase, turn_id, epoch)
VALUES (:thread_id, :path, :rollout_bytes, :next_ordinal, :base_id, :inherited_bytes, :meta_offset, :meta_bytes, :applied,
        :explicit_fields, :phase, :turn_id, :epoch)
    ON CONFLICT (thread_id) DO UPDATE
   SET path = excluded.path, rollout_bytes = excluded.rollout_bytes, next_ordinal = excluded.next_ordinal,
       base_id = excluded.base_id, inherited_bytes = excluded.inherited_bytes,
       meta_offset = excluded.meta_offset, meta_bytes = excluded.meta_bytes, applied = excluded.applied,
       explicit_fields = excluded.explicit_fields, phase = excluded.phase, turn_id = excluded.turn_id,
       epoch = max(epoch, excluded.epoch)

-- fence --
UPDATE rollouts SET epoch = max(epoch + 1, :now) WHERE thread_id = :thread_id

-- epoch --
SELECT epoch FROM rollouts WHERE thread_id = :thread_id

-- save_texts --
-- A JSON array: thread, number of its row, text. In ascending order and in one statement, because FTS5 flushes its buffer
-- before each statement, and before a row that is not in order.
INSERT OR REPLACE INTO listing_texts (rowid, text)
SELECT t.id * 3 + json_extract(j.value, '$[1]'), json_extract(j.value, '$[2]')
  FROM json_each(:texts) AS j CROSS JOIN threads AS t ON t.thread_id = json_extract(j.value, '$[0]')
 ORDER BY 1

-- forget_texts --
DELETE FROM listing_texts
 WHERE rowid IN (SELECT t.id * 3 + json_extract(j.value, '$[1]')
                   FROM json_each(:texts) AS j CROSS JOIN threads AS t ON t.thread_id = json_extract(j.value, '$[0]'))

-- save_writer --
INSERT INTO writers (thread_id, writer, n, lines, opened_at, ordinal)
VALUES (:thread_id, :writer, :n, :lines, :opened_at, :ordinal)
    ON CONFLICT (thread_id, writer) DO UPDATE SET n = excluded.n, lines = excluded.lines, ordinal = excluded.ordinal

-- save_key --
INSERT OR IGNORE INTO idempotency_keys (thread_id, key) VALUES (:thread_id, :key)

-- read_thread --
SELECT r.path, r.applied AS position, t.* FROM threads AS t JOIN rollouts AS r ON r.thread_id = t.thread_id WHERE t.thread_id = :thread_id

-- add_turn --
INSERT OR IGNORE INTO turns (thread_id, offset, turn_id) VALUES (:thread_id, :offset, :turn_id)

-- end_turn --
UPDATE turns SET end_offset = :offset
 WHERE thread_id = :thread_id
   AND offset = (SELECT min(offset) FROM turns
                  WHERE thread_id = :thread_id AND turn_id = :turn_id AND NOT is_taken_back AND offset < :offset)

-- take_back_turns --
UPDATE turns SET is_taken_back = 1
 WHERE thread_id = :thread_id
   AND offset IN (SELECT offset FROM turns WHERE thread_id = :thread_id AND NOT is_taken_back
                   ORDER BY offset DESC LIMIT :count)

-- turns_forward --
SELECT turn_id, offset, next_offset, end_offset FROM turn_spans
 WHERE thread_id = :thread_id AND offset >= :offset ORDER BY offset LIMIT :limit

-- turns_backward --
SELECT turn_id, offset, next_offset, end_offset FROM turn_spans
 WHERE thread_id = :thread_id AND offset <= :offset ORDER BY offset DESC LIMIT :limit

-- turn_ids --
SELECT turn_id FROM turns WHERE thread_id = :thread_id AND NOT is_taken_back ORDER BY offset

-- turn_span --
SELECT turn_id, offset, next_offset, end_offset FROM turn_spans
 WHERE thread_id = :thread_id AND turn_id = :turn_id ORDER BY offset LIMIT 1

-- add_message --
INSERT OR IGNORE INTO messages (thread_id, digest, ordinal, role, text)
VALUES (:thread_id, :digest, :ordinal, :role, :text)

-- newest_message --
SELECT coalesce(max(id), 0) FROM messages

-- index_messages --
-- The messages after the newest; in one statement, see save_texts.
INSERT INTO messages_fts (rowid, text) SELECT id, text FROM messages WHERE id > :newest ORDER BY id

-- leave_unindexed --
-- The messages after the newest, to be indexed later.
INSERT OR IGNORE INTO unindexed_messages (id) SELECT id FROM messages WHERE id > :newest

-- any_unindexed --
SELECT EXISTS (SELECT 1 FROM unindexed_messages)

-- index_unindexed --
INSERT INTO messages_fts (rowid, text)
SELECT m.id, m.text FROM unindexed_messages AS u CROSS JOIN messages AS m ON m.id = u.id ORDER BY u.id

-- forget_unindexed --
DELETE FROM unindexed_messages

-- without_trigrams --
-- Approximate number of messages that are not indexed; exact if it is 0.
SELECT coalesce((SELECT max(id) FROM messages), 0) - coalesce((SELECT max(id) FROM messages_trigrams_docsize), 0)

-- index_trigrams --
-- The next messages that are not indexed.
INSERT INTO messages_trigrams (rowid, text)
SELECT id, text FROM messages
 WHERE id > (SELECT coalesce(max(id), 0) FROM messages_trigrams_docsize) ORDER BY id LIMIT :limit

-- merge_messages --
-- Merge about this many pages of the segments of a level that has 16 or more. Each message is written again once per
-- level: about a page, in all.
INSERT INTO messages_fts (messages_fts, rank) VALUES ('merge', :pages)

-- merge_trigrams --
INSERT INTO messages_trigrams (messages_trigrams, rank) VALUES ('merge', :pages)

-- merge_texts --
INSERT INTO listing_texts (listing_texts, rank) VALUES ('merge', :pages)

-- check_messages --
-- Fails if the full text is damaged, or does not match the messages.
INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)

-- check_trigrams --
INSERT INTO messages_trigrams (messages_trigrams, rank) VALUES ('integrity-check', 1)

-- check_texts --
INSERT INTO listing_texts (listing_texts, rank) VALUES ('integrity-check', 1)

-- rebuild_messages --
INSERT INTO messages_fts (messages_fts) VALUES ('rebuild')

-- rebuild_trigrams --
INSERT INTO messages_trigrams (messages_trigrams) VALUES ('rebuild')

-- rebuild_texts --
-- From the table's own rows.
INSERT INTO listing_texts (listing_texts) VALUES ('rebuild')

-- texts --
SELECT rowid, text FROM listing_texts

-- forget_text --
DELETE FROM listing_texts WHERE rowid = :id

-- listed_texts --
-- The texts that listings search, of all threads; see listing_rows.
SELECT id, thread_id, preview, title, name FROM threads

-- delete_name --
DELETE FROM messages WHERE thread_id = :thread_id AND role = 'name'

-- forget_messages --
-- Messages that are no longer in their lines. Each of *kept* is a digest and the number of a line.
DELETE FROM messages
 WHERE thread_id = :thread_id AND digest || ':' || ordinal NOT IN (SELECT value FROM json_each(:kept))

-- delete_messages --
DELETE FROM messages WHERE thread_id = :thread_id

-- delete_turns --
DELETE FROM turns WHERE thread_id = :thread_id

-- delete_keys --
DELETE FROM idempotency_keys WHERE thread_id = :thread_id

-- delete_writers --
DELETE FROM writers WHERE thread_id = :thread_id

-- delete_rollout --
DELETE FROM rollouts WHERE thread_id = :thread_id

-- delete_thread --
DELETE FROM threads WHERE thread_id = :thread_id

-- recover_writer --
-- A rollout shows only tasks that left lines, so a higher counter stays.
INSERT INTO writers (thread_id, writer, n, lines, opened_at, ordinal)
VALUES (:thread_id, :writer, :n, :lines, :opened_at, :ordinal)
    ON CONFLICT (thread_id, writer) DO UPDATE
   SET n = excluded.n, lines = excluded.lines, ordinal = excluded.ordinal WHERE excluded.n > n

-- thread_ids --
SELECT thread_id FROM threads

-- unchanged_since --
SELECT t.thread_id FROM threads AS t JOIN rollouts AS r ON r.thread_id = t.thread_id
 WHERE t.updated_at < :before AND r.path NOT LIKE '%.zst'
 ORDER BY t.updated_at

-- set_path --
UPDATE rollouts SET path = :path WHERE thread_id = :thread_id

-- rollouts --
SELECT thread_id, path, rollout_bytes FROM rollouts

-- rollouts_of --
SELECT thread_id, path, rollout_bytes FROM rollouts WHERE thread_id IN (SELECT value FROM json_each(:thread_ids))

-- rollouts_before --
SELECT thread_id, path, rollout_bytes FROM rollouts WHERE thread_id < :thread_id ORDER BY thread_id DESC LIMIT :limit

-- rollouts_updated_last --
-- Merged from four parts of the SQL index, as listings do.
SELECT r.thread_id, r.path, r.rollout_bytes
  FROM (SELECT thread_id, updated_slot FROM threads INDEXED BY threads_by_updated_slot WHERE is_archived = 0 AND hidden = 0
         UNION ALL
        SELECT thread_id, updated_slot FROM threads INDEXED BY threads_by_updated_slot WHERE is_archived = 0 AND hidden = 1
         UNION ALL
        SELECT thread_id, updated_slot FROM threads INDEXED BY threads_by_updated_slot WHERE is_archived = 0 AND hidden = 2
         UNION ALL
        SELECT thread_id, updated_slot FROM threads INDEXED BY threads_by_updated_slot WHERE is_archived = 0 AND hidden = 3
         ORDER BY updated_slot DESC LIMIT :limit) AS t
 CROSS JOIN rollouts AS r ON r.thread_id = t.thread_id

-- folders --
SELECT path, changed_ns, inode, others FROM folders

-- save_folder --
INSERT OR REPLACE INTO folders (path, changed_ns, inode, others) VALUES (:path, :changed_ns, :inode, :others)

-- rollout --
SELECT path, rollout_bytes FROM rollouts WHERE thread_id = :thread_id

-- committed_end --
SELECT rollout_bytes + max(inherited_bytes, 0) FROM rollouts WHERE thread_id = :thread_id

-- lineage --
-- Whether the thread is paginated, so that codex may have reverted it, and whether inherited lines are missing.
SELECT t.history_mode = 'paginated' AND t.history_mode IS NOT NULL, r.inherited_bytes < 0
  FROM rollouts AS r JOIN threads AS t ON t.thread_id = r.thread_id WHERE r.thread_id = :thread_id

-- heirs --
-- Threads that continue one of the rollouts (a JSON array), or are attached to the thread.
SELECT r.thread_id, r.path, 1 AS is_attached FROM threads AS t JOIN rollouts AS r ON r.thread_id = t.thread_id
 WHERE t.attached_to_thread_id = :thread_id
 UNION ALL
SELECT thread_id, path, 0 FROM rollouts WHERE base_id IN (SELECT value FROM json_each(:rollout_ids))

-- base_ids --
SELECT DISTINCT base_id FROM rollouts WHERE base_id IS NOT NULL

-- broken --
SELECT thread_id FROM rollouts WHERE base_id IS NOT NULL AND inherited_bytes < 0

-- names --
SELECT thread_id, name FROM threads WHERE thread_id IN (SELECT value FROM json_each(:thread_ids))

-- threads_named --
SELECT thread_id FROM threads WHERE name = :name ORDER BY updated_at DESC, thread_id DESC

-- directories --
-- The working directories that were added after the row *id*.
SELECT id, path FROM directories WHERE id > :id ORDER BY id

-- digests --
SELECT digest FROM messages WHERE thread_id = :thread_id AND role <> 'name'

-- turn_offsets --
SELECT offset FROM turns WHERE thread_id = :thread_id

-- distrust --
-- No rollout is that long, so the next batch takes this one for cut and reads it again.
UPDATE rollouts SET rollout_bytes = :rollout_bytes WHERE thread_id = :thread_id
