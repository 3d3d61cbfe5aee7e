"""Run a program that ends when whoever started it is gone: `python -m evenhand_federated.leash`.

The starter holds the other end of the standard input. When that closes, however the starter
went, the whole process group is ended. So the starter makes a new session for it.
"""

import os
import signal
import subprocess
import sys
import threading

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """End this process's group when the other end of its standard input is gone."""

    def wait() -> None:
        # Not sys.stdin: a thread that holds its lock breaks the interpreter's shutdown.
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))  # noqa: S603
