"""``livethread parked``: threads with a task that cannot be applied."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from livethread.cli.output import as_indented_json, compact, json_option, one_line, print_json, shown_time, utc_option
from livethread.cli.place import deployment, has_deployment
from livethread.composition import open_parked_threads
from livethread.composition.home import has_home
from livethread.errors import Conflict, InvalidRequest, Unavailable
from livethread.units import counted

if TYPE_CHECKING:
    from livethread.queued.parked_threads import ParkedThreads
    from livethread.queued.parking import ParkedThread, WaitingEntry
    from livethread_config import Settings


@click.group("parked", invoke_without_command=True)
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List threads with a task that cannot be applied, and why; or retry or drop the task.

    A parked thread waits with its tasks in order; all others continue. Fix the cause and retry, or drop the task.
    """
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List parked threads and the reasons; the default command."""
    _list(as_json=as_json)


@command.command("show")
@click.argument("thread_id", metavar="THREAD")
@click.option("--contents", "with_contents", is_flag=True, help="Show the contents of the task, too.")
@utc_option
@json_option
def show(thread_id: str, *, with_contents: bool, in_utc: bool, as_json: bool) -> None:
    """Show why THREAD is parked, at which task, and how many tasks wait."""
    shown = asyncio.run(_show(thread_id, with_contents=with_contents))
    if as_json:
        print_json(shown)
        return
    from livethread.model import parse_time

    stopped, waiting, since = shown["stopped_at"] or {}, shown["waiting"], parse_time(shown["parked_at"])
    at = shown_time(since, in_utc=in_utc) if since else "an unknown time"
    click.echo(f"thread {shown['thread_id']} has been parked since {at}")
    click.echo(f"  reason   {one_line(shown['reason'])}")
    if stopped:
        items = f"{counted(stopped['items'], 'item')}, " if "items" in stopped else ""
        op = stopped["op"] or "no task"
        click.echo(f"  at       {stopped['position']}: {op}, {items}{counted(stopped['bytes'], 'byte')}")
    if stopped.get("writer"):
        click.echo(f"  writer   {stopped['writer']}, its task {stopped['n']}")
    click.echo(
        f"  waiting  {counted(waiting['tasks'], 'task')}, {counted(waiting['bytes'], 'byte')}; this one included"
    )
    if with_contents and stopped:
        click.echo(as_indented_json(stopped["contents"]))


@command.command("retry")
@click.argument("thread_ids", nargs=-1, required=True, metavar="THREAD…")
@json_option
def retry(thread_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Let workers try each THREAD again, from the task at which it stopped."""
    retried = asyncio.run(_retry(thread_ids))
    if as_json:
        print_json({"retried": retried})
        return
    for thread_id in retried:
        click.echo(f"{thread_id} is tried again")


@command.command("drop")
@click.argument("thread_id", metavar="THREAD")
@click.option("--position", metavar="P", help="The task to drop; refused unless THREAD stopped at it.")
@click.option(
    "--all", "is_all", is_flag=True, help="Drop all waiting tasks, not only the one at which THREAD stopped."
)
@click.option(
    "--save",
    "save_to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the dropped tasks in this new file, not in the home; required if the home is on another host.",
)
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask for confirmation.")
@json_option
def drop(
    *, thread_id: str, position: str | None, is_all: bool, save_to: Path | None, is_sure: bool, as_json: bool
) -> None:
    """Drop the task at which THREAD stopped, and let workers continue with the next.

    The dropped tasks are kept, whole, as JSON lines in livethread/quarantine of the home, or in --save.
    """
    if position is not None and is_all:
        raise click.UsageError("--position names one task, and --all means them all")
    dropped = asyncio.run(_drop(thread_id, position, is_all=is_all, save_to=save_to, is_sure=is_sure))
    if as_json:
        print_json(dropped)
    else:
        click.echo(
            f"dropped {dropped['dropped']}, kept in {dropped['kept_in']}; {dropped['thread_id']} is tried again"
        )


def _list(*, as_json: bool) -> None:
    from livethread_config import Settings

    parked = asyncio.run(_all())
    if as_json:
        print_json(parked)
        return
    for thread in parked:
        click.echo(f"{thread['thread_id']}  {one_line(thread['reason'])}")
    if not parked:
        click.echo(f"no thread is parked in {deployment(Settings())}")


@asynccontextmanager
async def _open() -> AsyncIterator[tuple[ParkedThreads, Settings]]:
    from redis.exceptions import RedisError

    from livethread_config import Settings
    from livethread_config.redis_url import without_password

    settings = Settings()
    if not has_deployment(settings):
        raise InvalidRequest(f"the home {settings.home} does not exist, so no thread is parked in it")
    async with AsyncExitStack() as stack:
        parked_threads = await open_parked_threads(stack, settings)
        try:
            yield parked_threads, settings
        except RedisError as error:
            raise Unavailable(
                f"Redis at {without_password(settings.client_url)} stopped answering ({error}): the command may or may not "
                "have taken effect; check with livethread parked list, and repeat it if it has not"
            ) from error


async def _all() -> list[dict[str, Any]]:
    from livethread_config import Settings

    if not has_deployment(Settings()):
        return []
    async with _open() as (parked_threads, _):
        return [parked.as_dict() for parked in await parked_threads.all()]


async def _show(thread_id: str, *, with_contents: bool) -> dict[str, Any]:
    async with _open() as (parked_threads, _):
        [parked] = await _find(parked_threads, [thread_id])
        stopped_at: dict[str, Any] | None = None
        tasks = size = 0
        async for entry in parked_threads.entries(parked):
            if stopped_at is None:
                stopped_at = entry.as_dict() | ({"contents": entry.contents()} if with_contents else {})
            tasks, size = tasks + 1, size + entry.size
        return {**parked.as_dict(), "stopped_at": stopped_at, "waiting": {"tasks": tasks, "bytes": size}}


async def _retry(texts: tuple[str, ...]) -> list[str]:
    async with _open() as (parked_threads, _):
        found = await _find(parked_threads, texts)
        for parked in found:
            await parked_threads.unpark(parked)
        return [parked.thread_id for parked in found]


async def _find(parked_threads: ParkedThreads, texts: Iterable[str]) -> list[ParkedThread]:
    """Return, for each of *texts*, the parked thread whose id it is, or the only one whose id begins with it."""
    known, found = await parked_threads.all(), []
    for text in texts:
        matching = [parked for parked in known if parked.thread_id.startswith(text)]
        found.append(matching[0] if len(matching) == 1 else await parked_threads.require(text))
    return found


async def _drop(
    text: str, position: str | None, *, is_all: bool, save_to: Path | None, is_sure: bool
) -> dict[str, str]:
    async with _open() as (parked_threads, settings):
        [parked] = await _find(parked_threads, [text])
        thread_id = parked.thread_id
        entries: list[WaitingEntry] = []
        async for entry in parked_threads.entries(parked):
            if position not in {None, entry.position}:
                raise InvalidRequest(
                    f"thread {thread_id} stopped at {entry.position}: later tasks cannot be dropped before that one, "
                    "since the thread would lose its order"
                )
            entries.append(entry)
            if not is_all:
                break
        if not entries:
            raise Conflict(f"nothing waits in the mailbox of thread {thread_id}; retry it")
        if save_to is None and not has_home(settings):
            raise InvalidRequest(
                "the home is on another host: name with --save a file in which to keep the dropped tasks"
            )
        if not is_sure:
            click.confirm(f"Drop {_named(entries)} of thread {thread_id}?", abort=True, err=True)
        saved = _save(settings, parked, entries, save_to)
        try:
            await parked_threads.drop(parked, entries)
        except Conflict:
            saved.unlink()
            raise
        return {"thread_id": thread_id, "dropped": _named(entries), "kept_in": str(saved)}


def _named(entries: list[WaitingEntry]) -> str:
    first = entries[0].as_dict()
    what = f"the {first['op'] or 'entry'} at {first['position']}"
    return what if len(entries) == 1 else f"{what} and the {len(entries) - 1} after it"


def _save(settings: Settings, parked: ParkedThread, entries: list[WaitingEntry], save_to: Path | None) -> Path:
    """Write *entries* to disk, a line each, and return the file."""
    lines = [{**parked.as_dict(), **entry.as_dict(), "fields": entry.contents()} for entry in entries]
    content = "".join(f"{compact(line)}\n" for line in lines).encode()
    if save_to is None:
        from livethread_worker.store.files.home import Home
        from livethread_worker.store.files.quarantine import keep

        # Any program that can write to Redis can park a thread of any name.
        name = parked.thread_id if parked.thread_id.replace("-", "").isalnum() else "thread"
        return keep(Home(settings.home), f"{name}-{entries[0].position}.dropped", content)
    try:
        descriptor = os.open(save_to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(f"{save_to}: {error.strerror}") from None
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return save_to
