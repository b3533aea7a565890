"""Compares the files and the index of a home, and mends what does not fit; nothing is lost by it."""

from livethread_worker.store.doctor.faults import DoctorReport, Fault, FaultKind
from livethread_worker.store.doctor.home import examine

__all__ = ["DoctorReport", "Fault", "FaultKind", "examine"]
