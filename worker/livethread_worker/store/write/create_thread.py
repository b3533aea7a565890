"""Creates a thread: its rollout begins with its ``session_meta``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from livethread.errors import InvalidRequest
from livethread.metadata_sync import thread_of_meta
from livethread.ordered_tasks import CreateThread, MailboxEntry
from livethread_worker.store.write.thread_work import Line, ThreadWork, encode_record

logger = logging.getLogger(__name__)


def create_thread(work: ThreadWork, entry: MailboxEntry, done: int) -> Sequence[Line]:
    """Plan a creation; it changes nothing if the thread exists.

    Raises:
        InvalidRequest: the ``session_meta`` names another thread.
    """
    header, state = entry.task.header, work.state
    assert isinstance(header, CreateThread)
    meta = header.session_meta
    if meta.get("id") != state.thread_id:
        raise InvalidRequest("the session_meta of a create_thread names another thread")
    if state.thread is not None:
        if not done:
            extra = {"action": "create_thread", "thread_id": state.thread_id}
            logger.info("thread %s exists; its creation changes nothing", state.thread_id, extra=extra)
        return ()
    state.thread = thread_of_meta(state.thread_id, meta, header.at)
    work.meta = meta
    return (Line(encode_record("session_meta", meta, header.at), is_meta=True),)
