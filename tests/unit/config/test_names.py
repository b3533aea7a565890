from __future__ import annotations

import pytest

from livethread_config import names
from livethread_config.names import ShardKeys, queue_name, shard_of

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"
OTHER = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("thread_id", "shards", "shard"),
    [
        (THREAD, 1, 0),
        (THREAD, 2, 1),
        (THREAD, 7, 3),
        (THREAD, 16, 1),
        (THREAD, 4096, 2609),
        (OTHER, 2, 1),
        (OTHER, 7, 1),
        (OTHER, 16, 7),
        (OTHER, 4096, 1559),
    ],
)
def test_a_thread_belongs_to_the_same_shard_for_good(thread_id: str, shards: int, shard: int) -> None:
    """A different answer would look for existing threads in the wrong shard."""
    assert shard_of(thread_id, shards) == shard


def test_every_shard_gets_about_its_share() -> None:
    ids = [f"019a93b9-f380-7600-98ff-{n:012x}" for n in range(4_000)]

    counts = [sum(shard_of(id_, 8) == shard for id_ in ids) for shard in range(8)]

    assert all(400 < count < 600 for count in counts)


def test_the_keys_of_a_shard_share_one_hash_tag_and_are_all_different() -> None:
    keys = ShardKeys("prefix", 7)
    spelled = [value for name, value in vars(keys).items() if name != "shard"]
    spelled += [keys.mailbox(THREAD), keys.writers(THREAD), keys.applied(THREAD), keys.idempotency_keys(THREAD)]
    spelled += [keys.read("r1"), keys.answer("r1")]

    assert all(key.startswith("prefix:{7}:") for key in spelled)
    assert len(set(spelled)) == len(spelled)


def test_redis_keys_keep_their_spelling() -> None:
    """Clients and workers of two releases meet at these names."""
    keys = ShardKeys("livethread", 0)

    assert (keys.ready, keys.claims, keys.parked, keys.bell, keys.drain) == (
        "livethread:{0}:ready",
        "livethread:{0}:claims",
        "livethread:{0}:parked",
        "livethread:{0}:bell",
        "livethread:{0}:drain",
    )
    assert keys.mailbox(THREAD) == f"{keys.thread_prefix}mailbox:{THREAD}" == f"livethread:{{0}}:mailbox:{THREAD}"
    assert keys.writers(THREAD) == f"livethread:{{0}}:writers:{THREAD}"
    assert keys.applied(THREAD) == f"livethread:{{0}}:applied:{THREAD}"
    assert keys.acks("c1") == f"{keys.acks_prefix}c1" == "livethread:{0}:acks:c1"
    assert keys.changes == "livethread:{0}:changes"


def test_queues_and_celery_tasks_keep_their_names() -> None:
    assert queue_name("livethread", 3) == "livethread.3"
    assert names.DRAIN_TASK == "livethread.drain"
    assert (names.READ_THREAD_TASK, names.LOAD_HISTORY_TASK, names.LIST_THREADS_TASK) == (
        "livethread.read_thread",
        "livethread.load_history",
        "livethread.list_threads",
    )


def test_a_writers_id_holds_the_time_at_which_it_was_opened() -> None:
    assert names.writer_id("client", 1_796_000_000_123) == "client.1a229f1287b"
    assert names.opened_at("client.1a229f1287b") == 1_796_000_000_123


@pytest.mark.parametrize("writer", ["", ".", "w", "w.", "w.G", "w.-1", "w.1_0", "w.0x1", "w." + "f" * 15])
def test_a_writers_id_of_another_program_holds_no_time(writer: str) -> None:
    assert names.opened_at(writer) == 0


def test_the_latest_time_in_a_writers_id_fits_the_index() -> None:
    assert names.opened_at("w." + "f" * 14) < 2**63
