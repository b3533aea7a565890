"""``livethread demo`` as a user runs it: it ends by itself, and reports whether every line was stored as it was sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.nodes.waiting import DEADLINE

from livethread_worker.store.files.home import Home
from livethread_worker.verify import verify

LIVETHREAD = [sys.executable, "-P", "-m", "livethread"]


def test_the_demo_checks_every_line_and_keeps_threads_and_journal(tmp_path: Path) -> None:
    command = [*LIVETHREAD, "demo", "--threads", "2", "--json", "--home", str(tmp_path / "home")]

    ended = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=3 * DEADLINE, check=True)

    figures = json.loads(ended.stdout)
    report = verify(Home(tmp_path / "home"), [Path(figures["journal"])])
    assert (figures["threads"], figures["problems"], report.violations) == (2, [], [])
    assert report.applied == figures["items"] - figures["dropped_by_policy"]
    assert report.lines == figures["lines"]
