"""Measures whether a client and its worker grow over many appends."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any, Final

import click

from benchmarks import load
from benchmarks.deployments import Deployment, deployed
from benchmarks.growth import resident_sizes

#: One round; after it, its threads are closed and others are opened.
_SHAPE: Final = load.Shape(threads=100, appends=100, patch_every=10)


def run(appends: int, every: int) -> list[dict[str, Any]]:
    """Write *appends* appends; return the resident sizes in bytes, after each *every* of them are durable."""
    return asyncio.run(_run(appends, every))


async def _run(appends: int, every: int) -> list[dict[str, Any]]:
    sizes = []
    async with deployed(1) as deployment:
        at_once = replace(_SHAPE, appends=min(_SHAPE.appends, every // _SHAPE.threads))
        await load.write(deployment.store, at_once)
        for done in range(0, appends + 1, every):
            if done:
                for _ in range(every // (at_once.threads * at_once.appends)):
                    await load.write(deployment.store, at_once)
            sizes.append({"appends": done} | _sizes(deployment))
            click.echo(
                f"{done:>9} appends: client {sizes[-1]['client'] / 1e6:.1f} MB, worker {sizes[-1]['worker'] / 1e6:.1f} MB"
                f", Redis {sizes[-1]['redis'] / 1e6:.1f} MB",
                err=True,
            )
    return sizes


def _sizes(deployment: Deployment) -> dict[str, int]:
    pids = deployment.supervisor.pids()
    processes = resident_sizes()
    # The worker's parent takes messages; its child does the work.
    working = [size for _, parent, size in processes if parent == pids["worker.1"]]
    sizes = {pid: size for pid, _, size in processes}
    return {"client": sizes[os.getpid()], "worker": max(working), "redis": sizes[pids["redis"]]}
