"""Remove directories as in unlinker.py, by a function that answers through `done`.

Only the worker's half differs: it gets `done` as its first argument and calls it with
the result, then or later.  A file system answers at once, so there is nothing to gain
here; the example shows how little changes.  It prints, in a folder without these
directories:

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

    def __call__(self, done, command, path):
        """Answer None, or the reason why it could not be done."""
        self.count += 1
        if self.count % 3 == 0:
            event(self.count)
        try:
            COMMANDS[command](path)
        except OSError as error:
            done(error.strerror)
        else:
            done(None)


def report(path, reason):
    if reason is not None:
        print(f"{path}: {reason}")


def main():
    done = Event()
    rpc = Forker().run(
        Unlinker,
        backend="async",
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
