"""Compares the files and the index of a home, and repairs them without losing anything."""

from __future__ import annotations

from livethread_worker.store.upkeep.doctor.examine_home import examine
from livethread_worker.store.upkeep.doctor.faults import DoctorReport, Fault, FaultKind
from livethread_worker.store.upkeep.doctor.repairs import UndoReport, undo

__all__ = ["DoctorReport", "Fault", "FaultKind", "UndoReport", "examine", "undo"]
