"""Remove directories in a worker that reports its progress with events.

The program starts a worker, queues six calls and lets go of the worker, which
therefore ends after the last of them; the program waits for that.  Every third call
sends an event before it is executed.  Results and events arrive in the order in which
the worker made them, so it prints, in a folder without these directories:

    somepath/1: No such file or directory
    somepath/2: No such file or directory
    3 requests handled
    somepath/3: No such file or directory
    somepath/4: No such file or directory
    somepath/5: No such file or directory
    6 requests handled
    somepath/6: No such file or directory
"""

import os
from functools import partial
from threading import Event

from forkrpc import Forker, event

COMMANDS = {"rmdir": os.rmdir, "unlink": os.unlink}


class Unlinker:
    """Executes commands, and counts them.  The worker makes one, and calls it."""

    def __init__(self):
        self.count = 0

    def __call__(self, command, path):
        """Return None, or the reason why it could not be done."""
        self.count += 1
        if self.count % 3 == 0:
            event(self.count)
        try:
            COMMANDS[command](path)
        except OSError as error:
            return error.strerror


def report(path, reason):
    if reason is not None:
        print(f"{path}: {reason}")


def main():
    done = Event()
    rpc = Forker().run(
        Unlinker,
        on_event=lambda count: print(f"{count} requests handled"),
        on_destroy=done.set,
    )
    for number in range(1, 7):
        path = f"somepath/{number}"
        rpc("rmdir", path, partial(report, path))
    del rpc
    done.wait()


if __name__ == "__main__":
    main()
