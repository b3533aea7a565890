-- The index: what listings, searches and the next batch need to know of every thread. All of it follows from the
-- rollouts, so the file may be deleted at any time; a worker or `livethread rebuild` makes it again.
--
-- Times are text, in UTC, as rollouts hold them: 2026-11-22T12:00:00.000Z. They sort as they are.
-- Offsets and lengths are bytes of the plain rollout, also when the rollout is compressed.

-- What readers see of each thread: the fields of StoredThread, except its path and its history.
CREATE TABLE threads (
    id                 INTEGER PRIMARY KEY,       -- the full-text table listing_texts refers to it
    thread_id          TEXT NOT NULL UNIQUE,
    session_id         TEXT,
    forked_from_id     TEXT,
    parent_thread_id   TEXT,                      -- the thread that spawned this one
    attached_to_thread_id TEXT,                   -- the thread to which this fork is attached; hidden unless asked for
    name               TEXT,
    title              TEXT,
    preview            TEXT NOT NULL,
    first_user_message TEXT,
    model_provider     TEXT,
    model              TEXT,
    reasoning_effort   TEXT,
    created_at         TEXT NOT NULL,
    updated_at         TEXT NOT NULL,
    recency_at         TEXT NOT NULL,
    archived_at        TEXT,                      -- NULL: active
    cwd                TEXT,
    cli_version        TEXT,
    originator         TEXT,
    source             TEXT NOT NULL,             -- JSON: a name such as "cli", or an object
    thread_source      TEXT,
    agent_nickname     TEXT,
    agent_role         TEXT,
    agent_path         TEXT,
    git_sha            TEXT,
    git_branch         TEXT,
    git_origin_url     TEXT,
    approval_mode      TEXT,                      -- JSON
    permission_profile TEXT,                      -- JSON
    token_usage        TEXT,                      -- JSON
    memory_mode        TEXT,
    history_mode       TEXT,

    is_archived        INTEGER GENERATED ALWAYS AS (archived_at IS NOT NULL) VIRTUAL,
    -- Why listings leave the thread out by default: 1 no preview, 2 attached to a thread, 3 both; 0 if they list it.
    hidden             INTEGER GENERATED ALWAYS AS ((preview = '') + 2 * (attached_to_thread_id IS NOT NULL)) VIRTUAL,

    -- The ten seconds that contain each time. Indexes hold these slots in place of the times, so that a thread that
    -- changes again within ten seconds moves in no index: rows were stored six times as fast. A page is read slot by
    -- slot, and the rows of a slot are sorted by time. Slots are not generated columns because SQLite rewrites the
    -- index of a generated column whenever its source is set, even to the same slot.
    created_slot       TEXT NOT NULL CHECK (created_slot = substr(created_at, 1, 18)),
    updated_slot       TEXT NOT NULL CHECK (updated_slot = substr(updated_at, 1, 18)),
    recency_slot       TEXT NOT NULL CHECK (recency_slot = substr(recency_at, 1, 18))
);

-- One index for each order, and one for each filter in each order: the cost of a page does not depend on the number of
-- threads, listed or hidden. Queries name them with INDEXED BY, see list_threads.py.
CREATE INDEX threads_by_created_slot ON threads (is_archived, hidden, created_slot);
CREATE INDEX threads_by_updated_slot ON threads (is_archived, hidden, updated_slot);
CREATE INDEX threads_by_recency_slot ON threads (is_archived, hidden, recency_slot);
CREATE INDEX threads_by_cwd_created_slot ON threads (cwd, is_archived, hidden, created_slot);
CREATE INDEX threads_by_cwd_updated_slot ON threads (cwd, is_archived, hidden, updated_slot);
CREATE INDEX threads_by_cwd_recency_slot ON threads (cwd, is_archived, hidden, recency_slot);
CREATE INDEX threads_by_source_created_slot ON threads (source, is_archived, hidden, created_slot);
CREATE INDEX threads_by_source_updated_slot ON threads (source, is_archived, hidden, updated_slot);
CREATE INDEX threads_by_source_recency_slot ON threads (source, is_archived, hidden, recency_slot);
CREATE INDEX threads_by_model_provider_created_slot ON threads (model_provider, is_archived, hidden, created_slot);
CREATE INDEX threads_by_model_provider_updated_slot ON threads (model_provider, is_archived, hidden, updated_slot);
CREATE INDEX threads_by_model_provider_recency_slot ON threads (model_provider, is_archived, hidden, recency_slot);
-- Most threads have no parent and are not attached, and cost nothing here.
CREATE INDEX threads_by_parent_thread_id_created_slot ON threads (parent_thread_id, is_archived, hidden, created_slot)
 WHERE parent_thread_id IS NOT NULL;
CREATE INDEX threads_by_parent_thread_id_updated_slot ON threads (parent_thread_id, is_archived, hidden, updated_slot)
 WHERE parent_thread_id IS NOT NULL;
CREATE INDEX threads_by_parent_thread_id_recency_slot ON threads (parent_thread_id, is_archived, hidden, recency_slot)
 WHERE parent_thread_id IS NOT NULL;

CREATE INDEX threads_by_attached_to_thread_id_created_slot ON threads (attached_to_thread_id, is_archived, hidden, created_slot)
 WHERE attached_to_thread_id IS NOT NULL;
CREATE INDEX threads_by_attached_to_thread_id_updated_slot ON threads (attached_to_thread_id, is_archived, hidden, updated_slot)
 WHERE attached_to_thread_id IS NOT NULL;
CREATE INDEX threads_by_attached_to_thread_id_recency_slot ON threads (attached_to_thread_id, is_archived, hidden, recency_slot)
 WHERE attached_to_thread_id IS NOT NULL;

CREATE INDEX threads_by_name ON threads (name) WHERE name IS NOT NULL;

-- Each working directory of the threads, once. An id is never used again, so readers need only read newer rows.
CREATE TABLE directories (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE
);
CREATE TRIGGER threads_added AFTER INSERT ON threads WHEN new.cwd IS NOT NULL
BEGIN
    INSERT INTO directories (path) SELECT new.cwd WHERE NOT EXISTS (SELECT 1 FROM directories WHERE path = new.cwd);
END;
CREATE TRIGGER threads_moved AFTER UPDATE OF cwd ON threads WHEN new.cwd IS NOT old.cwd
BEGIN
    INSERT INTO directories (path)
    SELECT new.cwd WHERE new.cwd IS NOT NULL AND NOT EXISTS (SELECT 1 FROM directories WHERE path = new.cwd);
    DELETE FROM directories WHERE path = old.cwd AND NOT EXISTS (SELECT 1 FROM threads WHERE cwd = old.cwd);
END;

-- What the writer needs to know of each rollout. It changes with every append; in a table of its own, it moves no text.
CREATE TABLE rollouts (
    thread_id       TEXT PRIMARY KEY,
    path            TEXT NOT NULL,                -- relative to the home
    rollout_bytes   INTEGER NOT NULL,             -- committed length; the next batch scans whatever is after it
    next_ordinal    INTEGER NOT NULL,             -- number of the next line
    base_id         TEXT,                         -- id of the rollout that this one continues
    inherited_bytes INTEGER NOT NULL,             -- length of the lines that it inherits; -1: some are missing
    meta_offset     INTEGER NOT NULL,             -- where the last session_meta line of the thread is
    meta_bytes      INTEGER NOT NULL,
    applied         TEXT NOT NULL,                -- position of the last applied task
    explicit_fields TEXT NOT NULL,                -- JSON: fields that a caller set, which no item may set any more
    phase           TEXT NOT NULL,                -- phase of the turn in which the rollout ends
    turn_id         TEXT,                         -- id of that turn
    epoch           INTEGER NOT NULL,             -- writers that opened the thread in an older epoch are fenced
    forgotten_to    INTEGER NOT NULL DEFAULT -1   -- opened_at of the newest writer that was forgotten
);

CREATE INDEX rollouts_by_base_id ON rollouts (base_id) WHERE base_id IS NOT NULL;

-- Folders of rollouts as they were when the index knew every rollout in them; see FolderStamp. A folder that is the same
-- need not be listed again.
CREATE TABLE folders (
    path       TEXT PRIMARY KEY,                  -- relative to the home
    changed_ns INTEGER NOT NULL,
    inode      TEXT NOT NULL,
    others     TEXT NOT NULL                      -- JSON: names of rollouts in it that are in no row of `rollouts`
);

-- Each writer's last applied task: its counter n makes a task that is delivered again a duplicate. A thread keeps the 128 to
-- 256 writers that were active last. An unknown one that was opened after all forgotten ones is new; the counter of any other
-- is read from the rollout.
CREATE TABLE writers (
    thread_id TEXT,
    writer    TEXT,
    n         INTEGER NOT NULL,                   -- the task's number
    lines     INTEGER NOT NULL,                   -- lines of that task in the rollout
    opened_at INTEGER NOT NULL,                   -- time (ms) in the writer's id; 0: it has none
    ordinal   INTEGER NOT NULL,                   -- number of the thread's next line when the row was stored
    PRIMARY KEY (thread_id, writer)
);
CREATE TRIGGER forget_writers AFTER INSERT ON writers
  WHEN (SELECT count(*) FROM writers WHERE thread_id = new.thread_id) > 256
BEGIN
  UPDATE rollouts
     SET forgotten_to = max(forgotten_to, (SELECT max(opened_at)
                                             FROM (SELECT opened_at FROM writers WHERE thread_id = new.thread_id
                                                    ORDER BY ordinal DESC, opened_at DESC LIMIT -1 OFFSET 128)))
   WHERE thread_id = new.thread_id;
  DELETE FROM writers
   WHERE thread_id = new.thread_id
     AND writer IN (SELECT writer FROM writers WHERE thread_id = new.thread_id
                     ORDER BY ordinal DESC, opened_at DESC LIMIT -1 OFFSET 128);
END;

-- Idempotency keys of all appends, for the life of the thread.
CREATE TABLE idempotency_keys (
    thread_id TEXT,
    key       TEXT,
    PRIMARY KEY (thread_id, key)
);

-- Where each turn is in its rollout.
CREATE TABLE turns (
    thread_id     TEXT,
    offset        INTEGER,                        -- its first line
    turn_id       TEXT NOT NULL,
    is_taken_back INTEGER NOT NULL DEFAULT 0,     -- rolled back
    end_offset    INTEGER,                        -- its last line, if that is after the start of another turn
    PRIMARY KEY (thread_id, offset)
);
CREATE INDEX turns_by_turn_id ON turns (thread_id, turn_id);

-- Turns that were not rolled back, each with the offset of the next line that begins a turn.
CREATE VIEW turn_spans AS
SELECT t.thread_id, t.turn_id, t.offset,
       (SELECT min(n.offset) FROM turns AS n WHERE n.thread_id = t.thread_id AND n.offset > t.offset) AS next_offset,
       t.end_offset
  FROM turns AS t WHERE NOT t.is_taken_back;

-- What searches read: messages, and the names of threads (role 'name', ordinal -1).
CREATE TABLE messages (
    id        INTEGER PRIMARY KEY,
    thread_id TEXT NOT NULL,
    digest    INTEGER NOT NULL,                   -- of the text
    ordinal   INTEGER NOT NULL,                   -- number of its line
    role      TEXT NOT NULL,
    text      TEXT NOT NULL,
    UNIQUE (thread_id, digest)                    -- an event and a response item say the same words; one is enough
);
CREATE VIRTUAL TABLE messages_fts USING fts5 (
    text, content = 'messages', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);

-- Literal searches look up a term's trigrams here, and check each message that has them all. So it needs no positions
-- (detail = none), which would make it four times as large. Writing it takes four times as long as messages_fts, so it is
-- written while a process is idle, in the order of the ids: `messages_trigrams_docsize` holds the ids of the messages in it, and searches
-- read the later ones.
CREATE VIRTUAL TABLE messages_trigrams USING fts5 (
    text, content = 'messages', content_rowid = 'id', tokenize = 'trigram', detail = none
);

-- Messages that are not in messages_fts yet. Batches leave theirs here, and many are indexed by one statement: an insert
-- trigger costs FTS5 five times the time.
CREATE TABLE unindexed_messages (id INTEGER PRIMARY KEY);

-- FTS5 must not be asked to forget what it does not hold.
CREATE TRIGGER messages_deleted AFTER DELETE ON messages
BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, text)
    SELECT 'delete', old.id, old.text WHERE NOT EXISTS (SELECT 1 FROM unindexed_messages WHERE id = old.id);
    DELETE FROM unindexed_messages WHERE id = old.id;
    INSERT INTO messages_trigrams (messages_trigrams, rowid, text)
    SELECT 'delete', old.id, old.text WHERE EXISTS (SELECT 1 FROM messages_trigrams_docsize WHERE id = old.id);
END;
CREATE TRIGGER messages_updated AFTER UPDATE ON messages
  WHEN NOT EXISTS (SELECT 1 FROM unindexed_messages WHERE id = old.id)
BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO messages_fts (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER messages_trigrams_updated AFTER UPDATE ON messages
  WHEN EXISTS (SELECT 1 FROM messages_trigrams_docsize WHERE id = old.id)
BEGIN
    INSERT INTO messages_trigrams (messages_trigrams, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO messages_trigrams (rowid, text) VALUES (new.id, new.text);
END;

-- The texts in which a listing looks for its search term: preview, title and name of each thread, in the rows
-- threads.id * 3, + 1 and + 2, so that a new name re-indexes one row. Without positions (detail = none) the table is
-- smaller and faster to write; each thread that it finds is checked.
CREATE VIRTUAL TABLE listing_texts USING fts5 (text, tokenize = 'trigram case_sensitive 1', detail = none);
CREATE TRIGGER threads_deleted AFTER DELETE ON threads
BEGIN
    DELETE FROM listing_texts WHERE rowid BETWEEN old.id * 3 AND old.id * 3 + 2;
    DELETE FROM directories WHERE path = old.cwd AND NOT EXISTS (SELECT 1 FROM threads WHERE cwd = old.cwd);
END;

-- FTS5 merges no segments within a commit, which would write hundreds of pages: `Index.maintain` merges between batches,
-- once a level holds 16 segments (usermerge). If it does not get to it, FTS5 merges at 64 (crisismerge).
INSERT INTO messages_fts (messages_fts, rank) VALUES ('automerge', 0), ('usermerge', 16), ('crisismerge', 64);
INSERT INTO messages_trigrams (messages_trigrams, rank) VALUES ('automerge', 0), ('usermerge', 16), ('crisismerge', 64);
INSERT INTO listing_texts (listing_texts, rank) VALUES ('automerge', 0), ('usermerge', 16), ('crisismerge', 64);
