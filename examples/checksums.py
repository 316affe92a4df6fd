"""Print the SHA-256 digests of all files below a directory, as sha256sum does.

    python examples/checksums.py [--workers N] DIR

Workers, forked from a template that has loaded hashlib, read and hash the files.  While
they do they send events, from which the program shows on stderr how far they are: on a
terminal in one line that it rewrites, else in a few lines:

    25 %, 2.1 of 8.4 MB
    50 %, 4.2 of 8.4 MB
    ...

The digests come on stdout, in the order of the paths, as soon as they are known:

    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  DIR/empty
    2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  DIR/hello

What cannot be read is reported on stderr and makes the exit status 1.  Symbolic links,
devices and the like are left out.  Ctrl-C ends the program at once, and its workers.
"""

import argparse
import hashlib
import os
import signal
import stat
import sys
from collections import deque
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Lock

from forkrpc import Forker, event

BLOCK = 2**20  # bytes between two events
LOAD = 2  # files that a worker has at a time, so that it never waits for the next
MB = 10**6  # bytes


def checksum(path):
    """Return the digest of a file; tell how many bytes were hashed.  In a worker."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            event(len(block))
    return digest.hexdigest()


class Screen:
    """Where digests, complaints and progress meet.  Any thread.

    total: how many bytes there are to hash.  failed: whether there was a complaint.
    """

    def __init__(self):
        self.total = 0
        self.failed = False
        self._done = 0
        self._percent = 0
        self._lock = Lock()
        terminal = sys.stderr.isatty()
        self._step = 1 if terminal else 25
        self._layout = "\r{}\033[K" if terminal else "{}\n"
        self._clear = "\r\033[K" if terminal else ""

    def progress(self, size):
        """Count *size* bytes more as hashed.  Called for each event."""
        with self._lock:
            self._done += size
            percent = min(100 * self._done // max(self.total, 1), 100)
            if percent // self._step > self._percent // self._step:
                self._percent = percent
                text = f"{percent} %, {self._done / MB:.1f} of {self.total / MB:.1f} MB"
                self._tell(self._layout.format(text))

    def digest(self, digest, path):
        """Print a line as sha256sum does: after a backslash the name has escapes."""
        name = path.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
        mark = "" if name == path else "\\"
        with self._lock:
            self._tell(self._clear)
            sys.stdout.buffer.write(os.fsencode(f"{mark}{digest}  {name}\n"))
            sys.stdout.buffer.flush()

    def complain(self, error):
        """Report an OSError."""
        name = os.fsencode(error.filename).decode(errors="backslashreplace")
        with self._lock:
            self.failed = True
            self._tell(f"{self._clear}checksums: {name}: {error.strerror}\n")

    def finish(self):
        """Leave nothing but digests and complaints on a terminal."""
        with self._lock:
            self._tell(self._clear)

    @staticmethod
    def _tell(text):
        print(text, end="", file=sys.stderr, flush=True)


def files_below(folder, screen):
    """Return the paths of all regular files, sorted; tell *screen* their size."""
    paths = []
    for parent, _, names in os.walk(folder, onerror=screen.complain):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.lstat(path)
            except OSError as error:
                screen.complain(error)
                continue
            if stat.S_ISREG(status.st_mode):
                screen.total += status.st_size
                paths.append(path)
    return sorted(paths, key=os.fsencode)


def answers(paths, workers):
    """Yield (path, future) in order; give the next file to whoever has answered."""
    idle = SimpleQueue()
    for worker in workers * LOAD:
        idle.put(worker)
    given = deque()
    for path in paths:
        worker = idle.get()
        future = worker.submit(path)
        future.add_done_callback(lambda _, worker=worker: idle.put(worker))
        given.append((path, future))
        while given and given[0][1].done():
            yield given.popleft()
    yield from given


def parse_arguments():
    about = "Print the SHA-256 digests of all files below a directory."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--workers", metavar="N", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers: at least one is needed")
    return arguments


def main():
    for number in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C, and "| head"
        signal.signal(number, signal.SIG_DFL)
    arguments = parse_arguments()
    screen = Screen()
    paths = files_below(arguments.folder, screen)
    template = Forker().require("hashlib")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(template.run(checksum, on_event=screen.progress))
            for _ in range(arguments.workers)
        ]
        for path, future in answers(paths, workers):
            try:
                screen.digest(future.result(), path)
            except OSError as error:
                screen.complain(error)
    screen.finish()  # no events any more: each worker was joined
    return int(screen.failed)


if __name__ == "__main__":
    sys.exit(main())
