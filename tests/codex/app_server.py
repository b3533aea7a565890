"""The real codex, driven as editors drive it: ``codex app-server``, JSON-RPC in lines over stdio."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.codex.conversation import PROVIDER
from tests.nodes.waiting import DEADLINE, eventually

#: A line holds a whole answer, such as a thread with all its turns.
MAX_LINE_BYTES = 64 * 1024 * 1024

#: Settings that keep codex off the network; a version ignores those that it does not know.
OFFLINE = (
    "analytics.enabled=false",
    "check_for_update_on_startup=false",
    "features.plugins=false",
    "features.apps=false",
)


class CodexError(Exception):
    """Codex refused a request."""


class AppServer:
    """One ``codex app-server`` over a home, without login; its model is the one at *model_url*.

    *log*: what it logs, in the form of ``RUST_LOG``.
    """

    def __init__(self, codex: Path, home: Path, model_url: str, log: str = "error") -> None:
        config = itertools.chain(*(("-c", setting) for setting in (*OFFLINE, *_model_settings(model_url))))
        self._command = [str(codex), "app-server", *config]
        self._home = home
        self._log_level = log
        self._log = home.parent / f"{home.name}-codex.log"
        #: Notifications from codex, in order.
        self._notifications: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        # Without the login, configuration and proxy of the user's own codex.
        env = {"PATH": os.environ["PATH"], "HOME": str(self._home), "CODEX_HOME": str(self._home), "TZ": "UTC"}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=env | {"RUST_LOG": self._log_level},
                cwd=self._home,
                limit=MAX_LINE_BYTES,
                start_new_session=True,
            )
        self._reading = asyncio.create_task(self._read())
        try:
            client = {"name": "livethread-tests", "title": "livethread's tests", "version": "0"}
            await self.call("initialize", clientInfo=client, capabilities={"experimentalApi": True})
            self._send({"method": "initialized"})
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End codex as editors do, by closing its input; kill it if that takes too long."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE):
                await self._process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._reading

    def log(self) -> str:
        """Return what codex has logged, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text(encoding="utf-8", errors="replace"))

    async def call(self, method: str, **params: Any) -> Any:
        """Return the result of a request.

        Raises:
            CodexError: codex refused it.
        """
        id_ = next(self._ids)
        reply = self._replies[id_] = asyncio.get_running_loop().create_future()
        self._send({"id": id_, "method": method, "params": params})
        async with asyncio.timeout(DEADLINE):
            answer = await reply
        if "error" in answer:
            raise CodexError(answer["error"]["message"])
        return answer["result"]

    async def threads(self, **params: Any) -> dict[str, Any]:
        """Return the threads that codex lists, by id."""
        listed = await self.call("thread/list", **params)
        assert listed["nextCursor"] is None
        return {thread["id"]: thread for thread in listed["data"]}

    async def found(self, term: str) -> list[str]:
        """Return the ids of the threads in which codex finds *term*."""
        page = await self.call("thread/search", searchTerm=term)
        return [hit["thread"]["id"] for hit in page["data"]]

    async def occurrences(self, thread_id: str, term: str) -> list[tuple[str, str, str]]:
        """Return each occurrence: its turn, its text, and up to 20 characters before it."""
        found: list[tuple[str, str, str]] = []
        page: dict[str, Any] = {"nextCursor": None}
        while True:
            page = await self.call(
                "thread/searchOccurrences", threadId=thread_id, searchTerm=term, cursor=page["nextCursor"]
            )
            for each in page["data"]:
                start, end = (each["snippetMatchRange"][edge] for edge in ("start", "end"))
                units = each["snippet"].encode("utf-16-le")  # codex counts in units of UTF-16
                before, match = units[: start * 2].decode("utf-16-le"), units[start * 2 : end * 2].decode("utf-16-le")
                found.append((each["turnId"], match, before[-20:]))
            if page["nextCursor"] is None:
                return found

    async def said(self, thread_id: str) -> list[list[tuple[str, str]]]:
        """Return the turns of a thread as codex shows them."""
        read = await self.call("thread/read", threadId=thread_id, includeTurns=True)
        return said_in(read["thread"])

    async def turns(self, thread_id: str) -> list[dict[str, Any]]:
        """Return all turns of a thread."""
        listed = await self.call("thread/turns/list", threadId=thread_id, itemsView="full", sortDirection="asc")
        assert listed["nextCursor"] is None
        turns: list[dict[str, Any]] = listed["data"]
        return turns

    async def run_turn(self, thread_id: str, text: str) -> None:
        """Send *text* to a loaded thread; return when the model has answered and the turn has ended."""
        started = await self.call("turn/start", threadId=thread_id, input=[{"type": "text", "text": text}])
        ended = await eventually(lambda: self._ended(started["turn"]["id"]), "the end of codex's turn")
        assert ended["status"] == "completed", ended

    def _ended(self, turn_id: str) -> Any:
        turns = (note["params"]["turn"] for note in self._notifications if note["method"] == "turn/completed")
        return next((turn for turn in turns if turn["id"] == turn_id), None)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "method" not in message:
                self._replies.pop(message["id"]).set_result(message)
            elif "id" in message:
                self._send({
                    "id": message["id"],
                    "error": {"code": -32601, "message": "the tests answer no requests"},
                })
            else:
                self._notifications.append(message)
        for reply in self._replies.values():
            reply.set_exception(EOFError(f"codex has ended:\n{self._log.read_text(errors='replace')[-3000:]}"))


def said_in(thread: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """Return the items of each turn as pairs of codex's type and the text."""
    return [[(item["type"], _text(item)) for item in turn["items"]] for turn in thread["turns"]]


def _text(item: dict[str, Any]) -> str:
    match item["type"]:
        case "userMessage":
            return "".join(part["text"] for part in item["content"])
        case "reasoning":
            return "\n".join(item["summary"])
        case "webSearch":
            return str(item["query"])
        case _:
            return str(item["text"])


def _model_settings(url: str) -> list[str]:
    provider = {"name": PROVIDER, "base_url": url, "wire_api": "responses"}
    settings = [f"model_providers.{PROVIDER}.{key}={json.dumps(value)}" for key, value in provider.items()]
    return [*settings, f"model_provider={PROVIDER}", "model=canned"]
