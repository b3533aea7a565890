from __future__ import annotations

from livethread.errors import Conflict
from livethread.several_threads import delete_each
from livethread.thread_id import new_thread_id
from livethread.types import Receipt

PARENT, CHILD, GRANDCHILD, NEEDED, STAYS = (new_thread_id() for _ in range(5))


async def test_a_thread_that_another_one_of_the_call_needs_is_deleted_after_it() -> None:
    remaining = [PARENT, CHILD, GRANDCHILD, NEEDED]
    needed_by = {PARENT: CHILD, CHILD: GRANDCHILD, NEEDED: STAYS}

    async def delete(thread_id: str) -> Receipt:
        if needed_by.get(thread_id) in [*remaining, STAYS]:
            raise Conflict(f"{needed_by[thread_id]} needs it")
        remaining.remove(thread_id)
        return Receipt(thread_id=thread_id, position="1-0")

    results = await delete_each(list(remaining), delete)

    assert remaining == [NEEDED]
    assert (set(results.done), set(results.failed)) == ({PARENT, CHILD, GRANDCHILD}, {NEEDED})
    assert isinstance(results.failed[NEEDED], Conflict)
