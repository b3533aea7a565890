"""``python -m livethread``: the same as the command ``livethread``."""

from livethread.cli import main

if __name__ == "__main__":
    main(prog_name="livethread")
