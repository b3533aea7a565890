"""Decides from journals, rollouts and index whether the promises were kept.

Every accepted task is applied exactly once; nothing else is, save tasks whose answer was lost, at most once; each writer's
order is kept, and one order per thread; no reader saw an order that the rollout contradicts; metadata is what the log says.
"""

from livethread_worker.verify.judge_home import VerifyReport, verify
from livethread_worker.verify.judge_thread import Violation, ViolationKind

__all__ = ["VerifyReport", "Violation", "ViolationKind", "verify"]
