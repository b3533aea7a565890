from __future__ import annotations

import inspect
import json
import pickle

import pytest
from celery import Celery

from livethread import errors
from livethread.errors import (
    Conflict,
    HomesUnavailable,
    Internal,
    InvalidRequest,
    ResourceExhausted,
    SilentHome,
    ThreadNotFound,
    ThreadParked,
    ThreadStoreError,
    Unavailable,
    Unsupported,
)

THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"

ERRORS = [
    (ThreadNotFound(THREAD), f"thread {THREAD} not found"),
    (ThreadNotFound(THREAD, "resume it first"), f"thread {THREAD} not found: resume it first"),
    (InvalidRequest("type: Field required"), "type: Field required"),
    (Conflict("the thread exists; resume it instead"), "the thread exists; resume it instead"),
    (
        Conflict.of_position("t1", "2-0", "1-0"),
        "the last position of thread t1 is 2-0, not 1-0: nothing was stored. Read the thread again, then retry",
    ),
    (ResourceExhausted("the mailbox is full; flush"), "the mailbox is full; flush"),
    (Unavailable("Redis does not answer; start it"), "Redis does not answer; start it"),
    (
        HomesUnavailable([SilentHome("h1", "host1", (1, 3), "no worker took the read")]),
        "no answer from home h1 on host host1 (shards: 1, 3): no worker took the read",
    ),
    (Internal("a bug; report it"), "a bug; report it"),
    (Unsupported("list_turns"), "this store does not support list_turns"),
    (
        ThreadParked(THREAD, "disk full"),
        f"thread {THREAD} is parked: disk full; its tasks are kept, in order. Remove the cause, then run livethread parked retry",
    ),
]

every_error = pytest.mark.parametrize(("error", "message"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])


def test_these_tests_cover_every_public_error() -> None:
    public = {
        value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, ThreadStoreError) and not name.startswith("_")
    }

    assert {type(error) for error, _ in ERRORS} == public - {ThreadStoreError}


@every_error
def test_the_message_says_what_happened_once(error: ThreadStoreError, message: str) -> None:
    assert str(error) == message


@every_error
def test_an_error_survives_pickle(error: ThreadStoreError, message: str) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.args, vars(copy), str(copy)) == (type(error), error.args, vars(error), message)


@every_error
def test_an_error_survives_celerys_result_backend(error: ThreadStoreError, message: str) -> None:
    app = Celery("test", broker="memory://", backend="cache+memory://", set_as_current=False)
    stored = json.dumps(app.backend.prepare_exception(error, serializer="json"))

    copy = app.backend.exception_to_python(json.loads(stored))

    assert (type(copy), copy.args, vars(copy), str(copy)) == (type(error), error.args, vars(error), message)
