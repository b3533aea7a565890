"""A session as a process that may be killed: it writes several threads at once, and journals all calls.

It runs until SIGTERM, then flushes and closes its threads. Its random choices follow from its seed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import time
import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livethread import (
    ArchiveThreadParams,
    Conflict,
    CreateThreadParams,
    GitInfoPatch,
    LiveThread,
    LoadThreadHistoryParams,
    MemoryMode,
    ResumeThreadParams,
    Settings,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadStore,
    ThreadStoreError,
    Unavailable,
    open_store,
)
from livethread.journal import journaled

#: The pause before a retry.
RETRY = 0.05  # seconds

#: How long a session that is stopped waits for the workers.
CLOSING = 90.0  # seconds

#: What a session prints when it is open.
OPEN = "session is open"


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a session."""

    settings: dict[str, Any]
    journal: str
    process: str
    seed: int
    #: Names of conversations; all sessions of a test share them.
    threads: list[str]
    #: Mean wait between two calls of a conversation.
    pace_s: float
    #: Seconds after which a conversation moves to a new thread.
    new_thread_after_s: float


class Conversation:
    """One coroutine, which writes one thread after the other, with its own random numbers."""

    def __init__(self, store: ThreadStore, plan: Plan, name: str) -> None:
        self.store = store
        self.plan = plan
        self.name = name
        self.random = random.Random(f"{plan.seed} {plan.process} {name}")
        self.said = 0

    async def run(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            period = self.period()
            thread = await self.open(self.thread_id(period), stopped)
            while thread and not stopped.is_set() and period == self.period():
                try:
                    await self.step(thread)
                except ThreadNotFound:
                    break
                except ThreadStoreError:
                    await asyncio.sleep(RETRY)
                await asyncio.sleep(self.random.expovariate(1 / self.plan.pace_s))
            if thread:
                await self.close(thread, stopped)

    def period(self) -> int:
        """Return the number of the current thread, which all sessions agree on."""
        return int(time.time() / self.plan.new_thread_after_s)

    def thread_id(self, period: int) -> str:
        """Return a UUIDv7 of the period's beginning: new threads are spread over shards that were added."""
        began_ms = int(period * self.plan.new_thread_after_s * 1000)
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.plan.seed} {self.name} {period}")
        return str(uuid.UUID(f"{began_ms:012x}7{name.hex[13:]}"))

    async def open(self, thread_id: str, stopped: asyncio.Event) -> LiveThread | None:
        """Resume the thread; create it first if no session has done so."""
        while not stopped.is_set():
            try:
                return await LiveThread.resume(self.store, ResumeThreadParams(thread_id=thread_id))
            except ThreadNotFound:
                with suppress(ThreadStoreError):
                    thread = await LiveThread.create(self.store, CreateThreadParams(thread_id=thread_id, cwd="/repo"))
                    with suppress(Conflict):
                        await thread.persist()
                    await thread.discard()
            except ThreadStoreError:
                pass
            await asyncio.sleep(RETRY)
        return None

    async def step(self, thread: LiveThread) -> None:
        match self.random.choices(("append", "repeat", "compare", "patch", "read", "move"), (82, 4, 4, 4, 4, 2))[0]:
            case "append":
                await thread.append_items(self.items())
            case "repeat":
                await self.append_until_sure(thread)
            case "compare":
                await self.compare_and_append(thread)
            case "patch":
                await thread.update_metadata(self.patch())
            case "read":
                await self.store.load_history(LoadThreadHistoryParams(thread_id=thread.thread_id))
            case "move":
                params = ArchiveThreadParams(thread_id=thread.thread_id)
                await self.store.archive_thread(params)
                await self.store.unarchive_thread(params)

    def items(self) -> list[dict[str, Any]]:
        """Return one to three items with new texts; some are user messages, from which metadata is derived."""
        items = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self.said += 1
            text = f"{self.plan.process}, {self.name}, item {self.said}" + " etc." * self.random.randrange(40)
            if self.random.random() < 0.1:
                items.append({"type": "event_msg", "payload": {"type": "user_message", "message": text}})
            else:
                content = [{"type": "output_text", "text": text}]
                items.append({
                    "type": "response_item",
                    "payload": {"type": "message", "role": "assistant", "content": content},
                })
        return items

    async def append_until_sure(self, thread: LiveThread) -> None:
        """Append twice with an idempotency key, as an agent does that is not sure of the first time."""
        items = self.items()
        key = f"{self.plan.process} {self.name} {self.said}"
        for _ in range(2):
            await thread.append_items(items, idempotency_key=key)

    async def compare_and_append(self, thread: LiveThread) -> None:
        """Append, and once more if no other writer has come in between; usually one has."""
        receipt = await thread.append_items(self.items())
        with suppress(Conflict):
            await thread.append_items(self.items(), expected_position=receipt.position)

    def patch(self) -> ThreadMetadataPatch:
        self.said += 1
        match self.random.randrange(3):
            case 0:
                return ThreadMetadataPatch(name=f"{self.plan.process} names it {self.said}")
            case 1:
                return ThreadMetadataPatch(git_info=GitInfoPatch(branch=f"{self.plan.process}/{self.said}"))
            case _:
                return ThreadMetadataPatch(memory_mode=self.random.choice(list(MemoryMode)))

    async def close(self, thread: LiveThread, stopped: asyncio.Event) -> None:
        """Flush and close, with as many attempts as that takes; once the session is *stopped*, for a limited time."""
        end: float | None = None
        while thread.is_open:
            try:
                await thread.shutdown(timeout_s=10.0)
            except ThreadStoreError:
                if end is None and stopped.is_set():
                    end = time.monotonic() + CLOSING
                if end is not None and time.monotonic() > end:
                    raise
                await asyncio.sleep(RETRY)


async def main(plan: Plan) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with AsyncExitStack() as stack:
        plain: ThreadStore | None = None
        while plain is None:
            try:
                plain = await stack.enter_async_context(open_store(Settings(**plan.settings)))
            except Unavailable:  # no Redis yet
                await asyncio.sleep(RETRY)
        with journaled(plain, Path(plan.journal), plan.process) as store:
            print(OPEN, flush=True)  # noqa: T201 - `Cluster.start_session` waits for it
            await asyncio.gather(*(Conversation(store, plan, name).run(stopped) for name in plan.threads))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(Plan(**json.loads(sys.argv[1]))))
