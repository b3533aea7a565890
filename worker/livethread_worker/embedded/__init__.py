"""The local runtime: an embedded Redis and workers, for a home on this machine.

- `redis_server` finds the server's binary and its command line; `processes` describes Redis and workers as children.
- `supervisor` runs children in order and leaves none behind; `output` takes what they print.
- `runtime` is what ``open_store`` uses: all processes of one home share one detached `runner`.

Locks decide which process does what (see `runtime_locks`), never a pid file: the kernel frees a lock with its holder.
"""
