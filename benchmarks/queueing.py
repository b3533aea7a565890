"""Measures the queue as session code uses it, compared with one Celery task per operation and with its parts alone.

Everything is measured in turn in one run; a rate is the median of its rounds, and a ratio is the median of the ratios
within each round.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Final

from benchmarks import limits, load, naive
from benchmarks.deployments import Deployment, deployed
from livethread_worker.embedded.output import LogFiles
from livethread_worker.embedded.redis_server import run_dir
from livethread_worker.embedded.supervisor import Supervisor

SHAPES: Final = {
    "many": load.Shape(threads=200, appends=50, patch_every=10),
    "wide": load.Shape(threads=2_000, appends=5),
    "deep": load.Shape(threads=1, appends=10_000, at_once=50),
}
#: One Celery task per operation runs only one operation in this many; its rate does not depend on their number.
NAIVE_PART: Final = 10

#: Concurrent threads when the client's CPU time is measured.
_CPU: Final = load.Shape(threads=50, appends=100)

#: Numbers of workers with one process each, and their shapes. One Celery task per operation has one worker, to keep
#: order.
WORKERS: Final = (1, 2, 4)
SHARED: Final = ("many", "wide")

#: The steady load: operations come at this rate whether or not earlier ones are done, for this time.
STEADY_RATE: Final = 500  # operations per second
STEADY_TIME: Final = 20.0  # seconds


def run(repeats: int) -> dict[str, Any]:
    """Return rates in operations per second, ratios to one Celery task per operation, and latencies in seconds."""
    return asyncio.run(_run(repeats))


async def _run(repeats: int) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        deployments = {workers: await stack.enter_async_context(deployed(workers)) for workers in WORKERS}
        alone = deployments[1]
        spec = naive.worker_spec(alone.settings, alone.settings.home / "naive")
        stack.enter_context(Supervisor([spec], LogFiles(run_dir(alone.settings))))
        bench = _Bench(deployments)
        await load.write(alone.store, SHAPES["many"])  # first imports and connections
        await asyncio.to_thread(naive.write, load.Shape(threads=1, appends=100))
        for turn in range(repeats):
            await bench.round(turn)
        steady = await _steady(alone)
        return bench.results() | {"steady": steady, "server": alone.server()}


class _Bench:
    """Measures everything once a round, and keeps the results."""

    def __init__(self, deployments: dict[int, Deployment]) -> None:
        self._deployments = deployments
        self._alone = deployments[1]
        self._measured: dict[str, list[float]] = defaultdict(list)
        #: Lines of one write and operations of one transaction, as in the workers.
        self._lines, self._batch = 1, 1

    async def round(self, turn: int) -> None:
        """Measure each once, in an order that changes each round."""
        operations = self._operations()
        names = list(operations)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            self._measured[name].append(await operations[name]())

    def results(self) -> dict[str, Any]:
        """Return the medians."""
        median = {name: statistics.median(values) for name, values in self._measured.items()}
        return {
            "shapes": {
                name: {
                    "threads": shape.threads,
                    "appends": shape.appends,
                    "per_s": median[name],
                    "naive_per_s": median[f"naive {name}"],
                    "ratio": self._ratio(name, f"naive {name}"),
                }
                for name, shape in SHAPES.items()
            },
            "limits": {
                name: {"per_s": median[name], "part": self._ratio("many", name)}
                for name in ("redis", "files", "sqlite")
            }
            | {"lines_at_a_time": self._lines, "operations_at_a_time": self._batch},
            "client_cpu_us": median["cpu"] * 1e6,
            "workers": {
                name: {
                    str(workers): {
                        "per_s": median[_by(name, workers)],
                        "ratio": self._ratio(_by(name, workers), name),
                        "naive_ratio": self._ratio(_by(name, workers), f"naive {name}"),
                    }
                    for workers in WORKERS
                }
                for name in SHARED
            },
        }

    def _ratio(self, name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(self._measured[name], self._measured[to], strict=True))

    def _operations(self) -> dict[str, Callable[[], Awaitable[float]]]:
        operations: dict[str, Callable[[], Awaitable[float]]] = {}
        for name, shape in SHAPES.items():
            operations[name] = partial(self._many if name == "many" else self._written, self._alone, shape)
            operations[f"naive {name}"] = partial(_naive, _part(shape))
        for name in ("redis", "files", "sqlite"):
            operations[name] = partial(self._limit, name)
        for name, workers in product(SHARED, WORKERS[1:]):
            operations[_by(name, workers)] = partial(self._written, self._deployments[workers], SHAPES[name])
        operations["cpu"] = self._cpu
        return operations

    async def _written(self, deployment: Deployment, shape: load.Shape) -> float:
        return shape.operations / (await load.write(deployment.store, shape)).seconds

    async def _many(self, deployment: Deployment, shape: load.Shape) -> float:
        """Measure, and count the writes and transactions of the workers."""
        writes, claims = deployment.calls("xtrim"), deployment.calls("zrangebyscore")
        rate = await self._written(deployment, shape)
        # A settle trims each thread once; a claim reads `ready` four times.
        self._lines = round(shape.operations / (deployment.calls("xtrim") - writes))
        self._batch = round(shape.operations * 4 / (deployment.calls("zrangebyscore") - claims))
        return rate

    async def _limit(self, name: str) -> float:
        shape, folder = SHAPES["many"], self._alone.settings.home / "bare"
        limit: dict[str, Callable[[], float]] = {
            "redis": partial(limits.xadds, self._alone.redis, shape),
            "files": partial(limits.files, folder, shape, self._lines),
            "sqlite": partial(limits.sqlite, folder, shape, self._batch),
        }
        return shape.operations / await asyncio.to_thread(limit[name])

    async def _cpu(self) -> float:
        return (await load.write(self._alone.store, _CPU)).cpu_s / _CPU.operations


def _by(name: str, workers: int) -> str:
    """Return the name of the rate of the shape *name* with this number of workers."""
    return name if workers == 1 else f"{name}, {workers} workers"


def _part(shape: load.Shape) -> load.Shape:
    if shape.threads > 1:
        return replace(shape, threads=shape.threads // NAIVE_PART)
    return replace(shape, appends=shape.appends // NAIVE_PART)


async def _naive(shape: load.Shape) -> float:
    return shape.operations / (await asyncio.to_thread(naive.write, shape)).seconds


async def _steady(deployment: Deployment) -> dict[str, Any]:
    """Measure the latency of operations at a steady rate, and the number of Celery messages."""
    threads = SHAPES["many"].threads
    before = await asyncio.to_thread(deployment.celery_tasks)
    seconds = sorted(await load.latencies(deployment.store, threads, STEADY_RATE, STEADY_TIME))
    after = await asyncio.to_thread(deployment.celery_tasks)
    percentiles = {f"p{p}": seconds[int(len(seconds) * p / 100)] for p in (50, 99)}
    return {
        "per_s": STEADY_RATE,
        "seconds": STEADY_TIME,
        "celery_messages": sum(after.values()) - sum(before.values()),
        **percentiles,
    }
