"""Draws turns, reverts, forks and rebuilds at random, by codex and by us, and compares each thread with a model."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nodes.items import append, read
from tests.store_spec.operations import archive, delete, path_of, unarchive
from tests.store_spec.turns import turns_of
from tests.unit.worker import paginated
from tests.unit.worker.builders import thread_id
from tests.unit.worker.paginated import Rollout

from livethread import (
    Conflict,
    CreateThreadParams,
    ListThreadsParams,
    ResumeThreadParams,
    Settings,
    StoredThread,
    ThreadManager,
)
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.store.index import Index
from livethread_worker.store.upkeep.compress_cold import compress_cold
from livethread_worker.store.upkeep.doctor import examine
from livethread_worker.store.upkeep.rebuild import rebuild

T = TypeVar("T")


@dataclass
class Thread:
    """What a thread must look like."""

    live: Rollout
    #: Its turns, each with the rollout that holds it.
    turns: list[tuple[str, Rollout]] = field(default_factory=list)
    #: Ids of all rollouts that its own rollouts continue.
    continued: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    is_open: bool = False


class Ours(Rollout):
    """A fork's rollout, which we began."""

    continued: set[str]

    @classmethod
    def of(cls, home: Home, thread: StoredThread) -> Ours:
        path = path_of(thread)
        first = json.loads(path.read_bytes().splitlines()[0])
        ours = cls(home, thread.thread_id, {}, first_ordinal=first["ordinal"], file=path)
        base = first["payload"].get("history_base")
        ours.continued = {base["thread_id"]} if base else set()
        return ours


class Machine:
    """A home, and the threads that must be in it."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.create()
        self.store = LocalThreadStore(Settings(home=root))
        self.loop = asyncio.new_event_loop()
        self.threads: dict[str, Thread] = {}
        self.number = 0

    def close(self) -> None:
        self.run(self.store.aclose())
        self.loop.close()

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(operation)

    def next_id(self) -> str:
        self.number += 1
        return thread_id(self.number)

    def begin(self, _: int) -> None:
        rollout = paginated.begin(self.home, self.next_id())
        self.threads[rollout.thread_id] = Thread(rollout, own={rollout.rollout_id})

    def turn(self, pick: int) -> None:
        if thread := self.pick(pick):
            self.number += 1
            turn_id = f"t{self.number}"
            thread.live.turn(turn_id, f"question {turn_id}", f"answer {turn_id}")
            thread.turns.append((turn_id, thread.live))

    def our_turn(self, pick: int) -> None:
        if thread := self.pick(pick):
            self.number += 1
            turn_id, rollout = f"t{self.number}", thread.live
            rollout.note(turn_id)
            if not thread.is_open:  # an open one may have been reverted since
                self.run(self.store.resume_thread(ResumeThreadParams(thread_id=rollout.thread_id)))
                thread.is_open = True
            values = [{"type": kind, "payload": payload} for kind, payload in rollout.items(turn_id, "ours", "ours")]
            self.run(append(self.store, rollout.thread_id, *values))
            thread.turns.append((turn_id, rollout))

    def revert(self, pick: int) -> None:
        thread = self.pick(pick)
        if thread and thread.turns:
            at = pick % len(thread.turns)
            turn_id, rollout = thread.turns[at]
            self.number += 1
            thread.live = rollout.reverted(turn_id, n=self.number, thread_id=thread.live.thread_id)
            thread.turns = thread.turns[:at]
            thread.continued.add(rollout.rollout_id)
            thread.own.add(thread.live.rollout_id)

    def fork(self, pick: int) -> None:
        thread = self.pick(pick)
        if thread and thread.turns:
            at = pick % len(thread.turns)
            turn_id, rollout = thread.turns[at]
            live = rollout.forked(self.next_id(), before=turn_id)
            forked = Thread(live, thread.turns[:at], {rollout.rollout_id}, {live.rollout_id})
            self.threads[live.thread_id] = forked

    def our_fork(self, pick: int) -> None:
        thread = self.pick(pick)
        if thread and thread.turns:
            at, manager = pick % len(thread.turns), ThreadManager(self.store, collect_git=False)
            before, through = (
                (thread.turns[at][0], None) if pick % 2 else (None, thread.turns[at - 1][0] if at else None)
            )
            forked = self.run(
                manager.fork_thread(
                    thread.live.thread_id,
                    CreateThreadParams(thread_id=self.next_id(), created_at=datetime(2026, 11, 22, 12, tzinfo=UTC)),
                    before_turn_id=before,
                    through_turn_id=through,
                )
            )
            kept = thread.turns[:at] if before or through else list(thread.turns)
            live = Ours.of(self.home, self.run(forked.read_thread()))
            self.run(forked.shutdown())
            self.threads[live.thread_id] = Thread(live, kept, live.continued, {live.rollout_id})

    def archive(self, pick: int) -> None:
        if thread := self.pick(pick):
            self.run(archive(self.store, thread.live.thread_id))
            self.check()
            self.run(unarchive(self.store, thread.live.thread_id))

    def delete(self, pick: int) -> None:
        if thread := self.pick(pick):
            id_ = thread.live.thread_id
            is_needed = any(other.continued & thread.own for other in self.threads.values() if other is not thread)
            try:
                self.run(delete(self.store, id_))
            except Conflict:
                assert is_needed
            else:
                assert not is_needed
                del self.threads[id_]

    def rebuild(self, _: int) -> None:
        with closing(Index(self.home)) as index:
            rebuild(self.home, index)

    def compress(self, _: int) -> None:
        with closing(Index(self.home)) as index:
            compress_cold(self.home, index, datetime.now(UTC) + timedelta(days=1))
        for id_ in self.threads:  # so that codex can go on
            self.run(unarchive(self.store, id_))

    def check(self, _: int = 0) -> None:
        for id_, thread in self.threads.items():
            turns = [turn.turn_id for turn in self.run(turns_of(self.store, id_, page_size=1000))]
            assert turns == [turn_id for turn_id, _ in thread.turns]
            path = self.run(read(self.store, id_)).rollout_path
            assert path is not None and self.home.rollout_id_of(path) == thread.live.rollout_id  # noqa: PT018

    def pick(self, number: int) -> Thread | None:
        return list(self.threads.values())[number % len(self.threads)] if self.threads else None


OPERATIONS = (
    *(Machine.turn, Machine.our_turn, Machine.revert, Machine.fork, Machine.our_fork) * 3,
    *(Machine.begin, Machine.archive, Machine.delete, Machine.rebuild, Machine.compress, Machine.check),
)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 50)), max_size=25))
def test_every_thread_has_the_turns_that_are_left(steps: list[tuple[Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        machine = Machine(Path(root))
        try:
            machine.begin(0)
            for _ in range(2):
                machine.turn(0)
            for operation, number in steps:
                operation(machine, number)
            machine.check()
            params = ListThreadsParams(include_without_preview=True, page_size=1000)
            with closing(Index(machine.home)) as index:
                known = {id_: index.messages_and_turns(id_) for id_ in machine.threads}
                rebuild(machine.home, index)
                assert {id_: index.messages_and_turns(id_) for id_ in machine.threads} == known
                listed = {thread.thread_id for thread in index.list_threads(params).items}
            assert listed == machine.threads.keys()
            assert [fault for fault in examine(machine.home, fix=False).faults if fault.thread_id] == []
        finally:
            machine.close()
