"""Values of the deployment record."""

from __future__ import annotations

import uuid

import pytest

from livethread_config.deployment import Deployment, HomeIdentity, ShardEpochs
from livethread_config.names import shard_of


def id_made_at(ms: int, kind: int = 7) -> str:
    """Return an id with a time in ms, of a UUID version."""
    text = f"{ms:012x}{kind:x}{uuid.uuid4().hex[13:]}"
    return str(uuid.UUID(text))


EPOCHS = ShardEpochs("[[0,2],[1000,3],[2000,8]]")


@pytest.mark.parametrize(("made_at", "shards"), [(0, 2), (999, 2), (1000, 3), (1999, 3), (2000, 8), (10**12, 8)])
def test_the_time_in_an_id_says_over_how_many_shards_it_is_spread(made_at: int, shards: int) -> None:
    for _ in range(20):
        thread_id = id_made_at(made_at)

        assert EPOCHS.shard_of(thread_id) == shard_of(thread_id, shards)


def test_a_later_epoch_moves_no_thread() -> None:
    ids = [id_made_at(made_at) for made_at in range(0, 3000, 7)]
    more = ShardEpochs.of(*EPOCHS.epochs, (3000, 16))

    assert [more.shard_of(id_) for id_ in ids] == [EPOCHS.shard_of(id_) for id_ in ids]


def test_an_id_without_a_time_belongs_to_the_first_epoch() -> None:
    ids = [str(uuid.uuid4()) for _ in range(50)] + [id_made_at(5000, kind=1) for _ in range(50)]

    assert [EPOCHS.shard_of(id_) for id_ in ids] == [shard_of(id_, 2) for id_ in ids]


def test_epochs_are_read_as_they_were_written() -> None:
    epochs = ShardEpochs.of((0, 1), (5, 4))

    assert epochs.text == "[[0,1],[5,4]]"
    assert ShardEpochs(epochs.text) == epochs
    assert epochs.shards == 4
    assert [epochs.begin_of(shard) for shard in range(4)] == [0, 5, 5, 5]


@pytest.mark.parametrize(
    "text", ["[]", "{}", "[[1,2]]", "[[0,0]]", "[[0,2],[0,3]]", "[[0,2],[9,2]]", "[[0,2.5]]", "[0,2]", "x", "7"]
)
def test_other_texts_are_no_epochs(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        ShardEpochs(text)


def test_epochs_continue_those_that_they_begin_with() -> None:
    assert EPOCHS.continues(ShardEpochs("[[0,2],[1000,3]]"))
    assert EPOCHS.continues(EPOCHS)
    assert not ShardEpochs("[[0,2],[1000,3]]").continues(EPOCHS)
    assert not EPOCHS.continues(ShardEpochs("[[0,3]]"))


def test_a_copy_is_another_home_however_it_is_named() -> None:
    home = HomeIdentity("a", "1", "host", "/srv/home")

    assert HomeIdentity.parse(home.text) == home == HomeIdentity("a", "1", "host", "/mnt/home")
    assert home != HomeIdentity("a", "2", "host", "/srv/home")


def test_the_record_says_which_shards_each_home_serves() -> None:
    a, b = HomeIdentity("a", "1"), HomeIdentity("b", "2")
    deployment = Deployment(ShardEpochs.of((0, 4)), {0: a, 1: b, 2: a})

    assert Deployment.parse(deployment.fields()) == deployment
