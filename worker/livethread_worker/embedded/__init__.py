"""The local runtime: an embedded Redis and workers, for a home on this machine.

- `redis_server` finds the server's binary and says how to run it; `processes` says how to run a worker.
- `supervisor` runs such processes as children, in order, and leaves none behind.
- `runtime` is what ``open_store`` uses: all processes of one home share one detached `runner`.

Who may do what is decided by locks that the kernel frees with their holder (see `locks`), never by a pid file.
"""
