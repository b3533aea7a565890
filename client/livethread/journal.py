"""A journal of the calls to a store and their answers, from which `livethread verify` checks a home.

It is a history in Jepsen's sense: each call is recorded when it is made (``invoke``) and when it is answered: ``ok``,
``fail`` (certainly had no effect) or ``info`` (unknown). A process that dies in between leaves no answer. Processes may
share a file: each appends its events as whole lines of JSON. Items are recorded as digests.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from livethread import types
from livethread.errors import Conflict, InvalidRequest, ResourceExhausted, Unsupported
from livethread.metadata import StoredThreadHistory
from livethread.metadata_sync import ThreadMetadataSync
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import encode_json
from livethread.store import ThreadStore

T = TypeVar("T")

#: Errors after which the request has, and will have, no effect.
REFUSALS: Final = (InvalidRequest, Conflict, ResourceExhausted, Unsupported)


@contextmanager
def journaled(store: ThreadStore, path: Path, process: str) -> Iterator[ThreadStore]:
    """Yield *store*, and record its changes and history reads in the file *path* under the name *process*.

    Give each store object its own name, even within one process. The file holds each call before the store receives it,
    so the process may be killed at any time.
    """
    with closing(Journal(path, process)) as journal:
        yield cast("ThreadStore", _JournaledThreadStore(store, journal))


def item_digest(kind: str, payload: Any) -> str:
    """Return the digest of an item's type and payload."""
    try:
        content = encode_json([kind, payload])
    except InvalidRequest:
        content = b"not JSON"  # no store accepts it
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _is_raw(params: types.AppendThreadItemsParams) -> bool:
    """Whether the items state last-wins facts but come without metadata."""
    update = params.metadata or ThreadMetadataSync(params.thread_id).derive(params.items, params.appended_at)
    return params.metadata is None and update is not None and update.patch.model_fields_set > update.only_if_unset


def digests_of(items: Iterable[RolloutItem]) -> list[str]:
    """Return the digest of each item."""
    return [item_digest(item.type, item.payload) for item in items]


def history_digest(digests: Iterable[str]) -> str:
    """Return the digest of a whole history."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()


class Journal:
    """Appends the events of one process. They survive a crash of the process, not of the machine."""

    def __init__(self, path: Path, process: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._process = process
        self._calls = 0

    def invoke(self, f: str, thread_id: str, value: Any = None, **details: Any) -> int:
        """Record a call of *f*; return the call's number."""
        self._calls += 1
        self._record(self._calls, type="invoke", f=f, thread_id=thread_id, value=value, **details)
        return self._calls

    def answer(self, call: int, kind: str, **details: Any) -> None:
        """Record how a call ended."""
        self._record(call, type=kind, **details)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _record(self, call: int, **event: Any) -> None:
        # The monotonic clock orders calls across the machine's processes, and is never set back.
        line = encode_json({"process": self._process, "call": call, "at": time.monotonic_ns(), **event}) + b"\n"
        os.write(self._file.fileno(), line)  # one write, so that processes can share the file


class _JournaledThreadStore:
    """Records calls and answers; all other attributes are the store's own."""

    def __init__(self, store: ThreadStore, journal: Journal) -> None:
        self._store = store
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        value, key, raw = digests_of(params.items), params.idempotency_key, _is_raw(params)
        call = self._store.append_items(params)
        return await self._change("append_items", params.thread_id, call, value, key=key, raw=raw)

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        value = params.patch.to_wire()
        call = self._store.update_thread_metadata(params)
        return await self._change("update_thread_metadata", params.thread_id, call, value)

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        return await self._change("archive_thread", params.thread_id, self._store.archive_thread(params))

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        return await self._change("unarchive_thread", params.thread_id, self._store.unarchive_thread(params))

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        return await self._change("delete_thread", params.thread_id, self._store.delete_thread(params))

    async def shutdown_thread(self, params: types.ShutdownThreadParams) -> None:
        number = self._journal.invoke("shutdown_thread", params.thread_id)
        await self._answered(number, self._store.shutdown_thread(params))
        self._journal.answer(number, "ok")

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        number = self._journal.invoke("load_history", params.thread_id)
        history = await self._answered(number, self._store.load_history(params))
        digests = digests_of(history.items)
        self._journal.answer(number, "ok", count=len(digests), digest=history_digest(digests))
        return history

    async def _change(
        self, f: str, thread_id: str, call: Awaitable[types.Receipt], value: Any = None, **details: Any
    ) -> types.Receipt:
        number = self._journal.invoke(f, thread_id, value, **details)
        receipt = await self._answered(number, call)
        self._journal.answer(number, "ok", position=receipt.position)
        return receipt

    async def _answered(self, number: int, call: Awaitable[T]) -> T:
        try:
            return await call
        except BaseException as error:
            kind = "fail" if isinstance(error, REFUSALS) else "info"
            self._journal.answer(number, kind, error=f"{type(error).__name__}: {error}")
            raise
