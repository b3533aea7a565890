"""Names on the wire: Celery tasks and queues, Redis keys.

Queued messages, dashboards and clients of older releases use these, so a name is never reused: a new meaning gets
a new name.
"""

from __future__ import annotations

import zlib

#: The doorbell: "shard *s* has ready threads". It carries no data, and may be lost, repeated or late.
DRAIN_TASK = "livethread.drain"
#: Read the rollouts that a new index lacks; sent by the process that opens the index.
COMPLETE_INDEX_TASK = "livethread.complete_index"
#: Compress rollouts without recent writes; sent by the sweeps of workers if the settings ask for it.
COMPRESS_COLD_TASK = "livethread.compress_cold"
#: Read one thread's metadata in the worker's home.
READ_THREAD_TASK = "livethread.read_thread"
#: Read one page of a thread's history in the worker's home.
LOAD_HISTORY_TASK = "livethread.load_history"
#: The other reads, each of one page or one thread.
READ_THREAD_BY_ROLLOUT_PATH_TASK = "livethread.read_thread_by_rollout_path"
LIST_THREADS_TASK = "livethread.list_threads"
SEARCH_THREADS_TASK = "livethread.search_threads"
SEARCH_OCCURRENCES_TASK = "livethread.search_occurrences"
LIST_TURNS_TASK = "livethread.list_turns"
LIST_ITEMS_TASK = "livethread.list_items"
FIND_THREAD_BY_NAME_TASK = "livethread.find_thread_by_name"
#: Say where a fork of a thread begins.
PREPARE_FORK_TASK = "livethread.prepare_fork"
#: Say where a thread's latest model context starts.
CONTEXT_START_TASK = "livethread.context_start"


#: The index holds 64 bits.
MAX_TIME_DIGITS = 14
_HEX_DIGITS = frozenset("0123456789abcdef")

#: Field of the hash ``writers`` with the thread's newest epoch; writers' ids have no colon.
EPOCH = ":epoch"


def writer_id(client: str, opened_at: int) -> str:
    """Return the id of the writer that *client* opens at a time in ms, at which it opens no other."""
    return f"{client}.{opened_at:x}"


def opened_at(writer: str) -> int:
    """Return the time in a writer's id; 0 if another program made the id and it has none."""
    digits = writer.rpartition(".")[2]
    return int(digits, 16) if 0 < len(digits) <= MAX_TIME_DIGITS and not set(digits) - _HEX_DIGITS else 0


def shard_of(thread_id: str, shards: int) -> int:
    """Return which of *shards* owns *thread_id*; stable across releases, processes and platforms.

    Only `ShardEpochs` knows over how many shards the thread's epoch is spread.
    """
    return zlib.crc32(thread_id.encode("ascii")) % shards


def queue_name(prefix: str, shard: int) -> str:
    """Return the Celery queue of *shard*."""
    return f"{prefix}.{shard}"


def deployment_key(prefix: str) -> str:
    """Return the hash with the deployment record: ``wire``, ``epochs``, ``home:<shard>``, ``ahead``."""
    return f"{prefix}:deployment"


def workers_key(prefix: str) -> str:
    """Return the hash worker -> ``<time (ms) of its last sign of life> <JSON: host, home, shards>``."""
    return f"{prefix}:workers"


def celery_key_prefix(prefix: str) -> str:
    """Return how Celery's keys begin: with our prefix, so that one Redis ACL covers both."""
    return f"{prefix}:celery:"


class ShardKeys:
    """The Redis keys of one shard.

    All carry the hash tag ``{shard}``, so that a script's keys share one cluster slot.
    """

    def __init__(self, prefix: str, shard: int) -> None:
        self.shard = shard
        base = f"{prefix}:{{{shard}}}:"
        #: zset: thread -> time (ms) from which it may be claimed.
        self.ready = f"{base}ready"
        #: zset: thread -> deadline (ms) of its claim.
        self.claims = f"{base}claims"
        #: hash: thread -> token of the drain that holds its claim.
        self.tokens = f"{base}tokens"
        #: hash: thread -> ``<failed attempts in a row at its first unapplied task> <why it was put back>``.
        self.attempts = f"{base}attempts"
        #: hash: thread -> JSON that says why it is parked.
        self.parked = f"{base}parked"
        #: zset: thread -> time (ms) in the position of its first unapplied task; parked threads are not in it.
        self.waiting = f"{base}waiting"
        #: hash: what happened to tasks, counted; see ``StatisticsReader``.
        self.stats = f"{base}stats"
        #: zset: thread -> time (ms) at which its deletion was accepted; no later task is.
        self.deleted = f"{base}deleted"
        #: string, short TTL: a doorbell is outstanding.
        self.bell = f"{base}bell"
        #: string, short TTL: heartbeat of a running drain.
        self.drain = f"{base}drain"
        #: string, TTL: workers have looked for cold rollouts to compress.
        self.compressed = f"{base}compressed"
        #: string: time (ms) at which a worker last looked for ready threads.
        self.looked = f"{base}looked"
        #: string: time (ms) of the last sweep, by a worker of this shard or of another.
        self.swept = f"{base}swept"
        #: string: ``<time (ms)> <home id> <inode>`` of the last sweep by a worker that serves this shard.
        self.served = f"{base}served"
        #: list, at most one entry: wakes a drain that lingers for more work.
        self.wake = f"{base}wake"
        #: zset: read -> time (ms) until which its caller waits; only reads that no worker has taken yet.
        self.reads = f"{base}reads"
        #: Keys of one thread begin with this, followed by ``mailbox:<thread>`` and the like.
        self.thread_prefix = base
        #: Channel on which workers name the threads that they changed, separated by spaces.
        self.changes = f"{base}changes"
        #: Channels of clients begin with this, followed by the client's name.
        self.acks_prefix = f"{base}acks:"

    def acks(self, client: str) -> str:
        """Return the channel on which workers acknowledge a client's tasks, and report parked threads.

        A client's name is the part before the first dot in the ids of its writers, or the whole id.
        """
        return self.acks_prefix + client

    def thread_keys(self, thread_id: str) -> tuple[str, ...]:
        """Return the keys of *thread_id* in the order in which clients' scripts take them."""
        return (
            self.mailbox(thread_id),
            self.writers(thread_id),
            self.applied(thread_id),
            self.idempotency_keys(thread_id),
        )

    def mailbox(self, thread_id: str) -> str:
        """Return the stream of *thread_id*'s unapplied tasks; an entry's id is its position."""
        return f"{self.thread_prefix}mailbox:{thread_id}"

    def writers(self, thread_id: str) -> str:
        """Return the hash writer -> ``<n> <position>`` accepted, ``a:<writer>`` -> n applied, ``tail`` -> position.

        Also ``:epoch`` -> the newest epoch. A writer that has ended has no fields.
        """
        return f"{self.thread_prefix}writers:{thread_id}"

    def idempotency_keys(self, thread_id: str) -> str:
        """Return the zset idempotency key -> time (ms) at which an append with it was last accepted."""
        return f"{self.thread_prefix}idempotency_keys:{thread_id}"

    def applied(self, thread_id: str) -> str:
        """Return the string with the last applied position."""
        return f"{self.thread_prefix}applied:{thread_id}"

    def read(self, read_id: str) -> str:
        """Return the string that exists as long as a read's caller waits: empty, then the worker that took the read."""
        return f"{self.thread_prefix}read:{read_id}"

    def answer(self, read_id: str) -> str:
        """Return the list of the pieces of a read's answer that its caller has not received yet."""
        return f"{self.thread_prefix}answer:{read_id}"
