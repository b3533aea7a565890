"""Loads the states of threads for the next batch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

from livethread.metadata import StoredThread
from livethread.rollout.turns import TurnPhase, TurnPlace
from livethread_worker.store.index.queries import QUERIES
from livethread_worker.store.index.thread_rows import from_rows
from livethread_worker.store.thread_state import ThreadState, WriterMark


def load_states(
    connection: sqlite3.Connection,
    root: Path,
    writers: Mapping[str, Collection[str]],
    keys: Mapping[str, Collection[str]],
) -> dict[str, ThreadState]:
    """Return the states of the threads in *writers*, if known, each with the counters of the writers named there.

    Each also has its idempotency *keys* that appends have taken.
    """
    arguments = {"thread_ids": json.dumps(list(writers)), "writers": _pairs(writers)}
    rows = connection.execute(QUERIES["load_states"], arguments).fetchall()
    threads = from_rows(rows, root)
    states = {thread.thread_id: _state(row, thread) for row, thread in zip(rows, threads, strict=True)}
    for row in connection.execute(QUERIES["load_writers"], arguments):
        if state := states.get(row["thread_id"]):
            state.writers[row["writer"]] = WriterMark(row["n"], row["lines"])
    if any(keys.values()):
        for row in connection.execute(QUERIES["load_keys"], {"keys": _pairs(keys)}):
            if state := states.get(row["thread_id"]):
                state.idempotency_keys.add(row["key"])
    return states


def _pairs(named: Mapping[str, Collection[str]]) -> str:
    """Return pairs of a thread and a name, as the queries take them."""
    return json.dumps([(thread_id, name) for thread_id, names in named.items() for name in names])


def _state(row: sqlite3.Row, thread: StoredThread) -> ThreadState:
    return ThreadState(
        thread_id=row["thread_id"],
        thread=thread,
        path=row["path"],
        loaded_bytes=row["rollout_bytes"],
        rollout_bytes=row["rollout_bytes"],
        next_ordinal=row["next_ordinal"],
        base_id=row["base_id"],
        inherited_bytes=row["inherited_bytes"],
        meta_offset=row["meta_offset"],
        meta_bytes=row["meta_bytes"],
        applied=row["applied"],
        explicit_fields=set(json.loads(row["explicit_fields"])),
        turn=TurnPlace(TurnPhase(row["phase"]), row["turn_id"]),
        epoch=row["epoch"],
        forgotten_to=row["forgotten_to"],
    )
