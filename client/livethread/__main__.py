"""Runs the ``livethread`` command as ``python -m livethread``."""

from livethread.cli import main

if __name__ == "__main__":
    main(prog_name="livethread")
