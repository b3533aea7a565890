"""A thread that is open in a `QueuedThreadStore`, and the way of its tasks to its writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from livethread.errors import ThreadNotFound
from livethread.ordered_tasks import EncodedTask
from livethread.queued.writer import Submission, Writer
from livethread.types import START, Position


@dataclass(slots=True)
class OpenThread:
    """A thread that is open in this store."""

    writer: Writer
    #: The task that creates it, until Redis holds it: creation is lazy.
    creation: EncodedTask | None = None
    #: That task on its way.
    creating: Submission | None = None
    #: Whether it was shut down or discarded: who waited for room meanwhile comes too late.
    is_closed: bool = False


@dataclass(slots=True)
class Attempt:
    """Submits a task, as often as it takes until there is room for it."""

    opened: OpenThread
    task: EncodedTask
    expected: Position | None
    submit_creation: Callable[[OpenThread, float], bool]

    def __call__(self, deadline: float) -> Submission:
        """Submit it, behind the thread's creation where that is due; where Redis has no room, it waits until *deadline*.

        Raises:
            NoRoom: too much is outstanding: it is to be tried again.
            ResourceExhausted: it is larger than all that may be outstanding.
            ThreadNotFound: the thread was shut down or discarded meanwhile.
        """
        opened, writer = self.opened, self.opened.writer
        if opened.is_closed:
            raise ThreadNotFound(writer.thread_id, "it was shut down or discarded")
        if opened.creation is not None:
            if opened.creating is None:
                writer.require_room_for_both(opened.creation, self.task)
            if self.submit_creation(opened, deadline) and self.expected == START:
                self.expected = None  # the creation itself asks for a thread without tasks
        return writer.submit(self.task, self.expected, deadline)
