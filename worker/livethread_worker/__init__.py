"""The worker side of livethread: Celery tasks, the drain of the mailboxes, and the store of files and index.

Rules that hold everywhere below:

- The rollout files are the truth. The index can be deleted at any time and is rebuilt from them.
- A task's identity is (writer, n). It decides what is already applied; positions only order and trim.
- Claims and their tokens serve only liveness. Safety rests on the files: a lock per thread, one write at the
  committed length, and each writer's counter in the same transaction as its effects.
- Item contents never reach a log line, an event or an error.
"""
