"""The word in which a worker tells what it is doing; both processes.

One page of memory, shared by one worker and the parent.  Writing to it costs 34 ns, and
it can be read while the worker is stuck, and after it was killed.
"""

import _thread
import mmap
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

PAGE = mmap.PAGESIZE
PAGES = 64  # of one Arena: a descriptor and a mapping for so many workers
BEGUN = 0  # id of the call that was begun last; 0 before the first
SINCE = 1  # time.monotonic_ns() when it began; kept only for calls with a limit
WORDS = 2


def map_page(fd: int, page: int) -> "memoryview":
    """Return the words of one page of *fd*; closes *fd*.  Runs in the worker."""
    if sys.version_info >= (3, 13):
        memory = mmap.mmap(fd, PAGE, offset=page * PAGE, trackfd=False)
        os.close(fd)
    else:
        # mmap keeps a duplicate, the lowest free number, to be able to resize.  A
        # worker shall hold no descriptor but its own: the mapping outlives it.
        twin = os.dup(fd)
        os.close(twin)
        memory = mmap.mmap(fd, PAGE, offset=page * PAGE)
        os.close(fd)
        os.close(twin)
        _KEPT.append(memory)
    return memoryview(memory).cast("Q")


_KEPT: "list[mmap.mmap]" = []  # never collected: that would close a stranger's number


class Arena:
    """A block of pages that the parent hands out, one to each worker.

    Owned by the parent; `close` when no page is in use.
    """

    def __init__(self) -> None:
        self.fd = _shared_memory(PAGE * PAGES)
        self._memory = mmap.mmap(self.fd, PAGE * PAGES)
        self._words = memoryview(self._memory).cast("Q")
        self.free = list(range(PAGES))

    def take(self) -> "Page":
        number = self.free.pop()
        start = number * PAGE // 8
        words = self._words[start : start + WORDS]
        for word in range(WORDS):
            words[word] = 0
        return Page(self, number, words)

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self.fd)


class Page:
    """One worker's words, as the parent sees them."""

    __slots__ = ("arena", "number", "words")

    def __init__(self, arena: Arena, number: int, words: "memoryview") -> None:
        self.arena = arena
        self.number = number
        self.words = words


class Pages:
    """All pages of one program."""

    def __init__(self) -> None:
        self._arenas: list[Arena] = []
        self._lock = _thread.RLock()

    def take(self) -> Page:
        """Return a page, all words 0.  Raise OSError where there is no memory."""
        with self._lock:
            for arena in self._arenas:
                if arena.free:
                    return arena.take()
            arena = Arena()
            self._arenas.append(arena)
            return arena.take()

    def give_back(self, page: Page) -> None:
        """Take a page whose worker has ended.  One arena is kept for the next."""
        page.words.release()
        with self._lock:
            page.arena.free.append(page.number)
            empty = [arena for arena in self._arenas if len(arena.free) == PAGES]
            for arena in empty[1:]:
                self._arenas.remove(arena)
                arena.close()

    def abandon(self) -> None:
        """Close the descriptors, in a forked copy of the program."""
        for arena in self._arenas:
            os.close(arena.fd)


def _shared_memory(size: int) -> int:
    """Return a descriptor of new shared memory without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("forkrpc")
    else:
        import tempfile

        fd, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd
