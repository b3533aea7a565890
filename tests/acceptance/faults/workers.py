"""Workers with fault points."""

from __future__ import annotations

import os
from pathlib import Path

from tests.acceptance.nodes import ProcessWorker

from livethread_config import Settings

CHECKOUT = Path(__file__).parents[3]


def faulty_worker(settings: Settings, folder: Path, name: str, *options: str) -> ProcessWorker:
    """Return a worker that is not yet started; files in *folder* arm its fault points."""
    points = folder / "points"
    points.mkdir(exist_ok=True)
    node = ProcessWorker(settings, folder / "workers", name, *options, app="tests.acceptance.faults.faulty_worker")
    sources = filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH")))
    node.process.env |= {"FAULT_POINTS": str(points), "PYTHONPATH": os.pathsep.join(sources)}
    return node
