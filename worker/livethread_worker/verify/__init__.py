"""Checks from journals, rollouts and index that every promise was kept.

Every accepted task is applied exactly once; a task whose answer was lost, at most once; nothing else is applied. Each
writer's order is kept, in one order per thread. No reader saw an order that the rollout contradicts. The metadata follows
from the rollout and the accepted patches.
"""

from __future__ import annotations

from livethread_worker.verify.judge_home import VerifyReport, verify
from livethread_worker.verify.judge_thread import Violation, ViolationKind

__all__ = ["VerifyReport", "Violation", "ViolationKind", "verify"]
