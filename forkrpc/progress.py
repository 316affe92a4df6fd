"""The page in which a worker tells what it is doing; both processes.

A block of memory, shared by one worker and the parent: writing a word costs 34 ns, and
all of it can be read while the worker is stuck, and after it was killed.

    words     BEGUN, SINCE, HELD, KIND; TURN, BEHIND, OLDEST; STREAM, FIRST, MADE;
              SPENT; ANSWERED
    slots     one number for each result that is held back
    tags      what each slot holds, where they differ: one of the tags below
    data      bodies of results that are no numbers; of an asynchronous worker, whose
              results come in any order, the ids of their calls first

Behind all blocks, in the same memory, each worker has room for the stacks that
`faulthandler` writes when it crashes.

A worker gathers the results of quick calls and writes them together.  Until then they
stand here as well, so that a crash of the next call cannot lose them.  The items of a
stream that is being made stand here in the same way.
"""

import _thread
import mmap
import os
import sys

from .fds import above_stdio, duplicate
from .system import LINUX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BEGUN = 0  # id of the call that was begun last; 0 before the first
SINCE = 1  # time.monotonic_ns() when it began; kept only for calls with a limit
HELD = 2  # id of the call whose result is in slot 0; 0: nothing is held
KIND = 3  # what every slot holds, a tag; 0: each slot has a tag of its own
WAITING = 1 << 63  # in SINCE: the call waits for its caller; the rest: ns it has run
# Of asynchronous workers: HELD is how many results are held, KIND is 0, and
TURN = 4  # changes whenever slots are about to be used anew
BEHIND = 9  # whether frames wait for the loop's next turn that were made before them
OLDEST = 5  # id of the call with a limit that has been running longest, since SINCE
# Of blocking workers, while they make the items of a stream:
STREAM = 6  # id of the call whose items are in the slots; 0: none
FIRST = 7  # number of the item in slot 0; items count from 1
MADE = 8  # number of the last item that was made; stored behind its slot
# Of blocking workers of a pool:
SPENT = 10  # ns for which it has executed calls
# Of workers that have a process for each call:
ANSWERED = 11  # number of the last one that has handed on its turn (`child.keeper`)
SLOTS = 512  # results that may be held at once
LONGEST_BODY = 1024  # bytes of a result that may be held

_WORDS = 16
_WORDS_BYTES = 8 * _WORDS
_SLOTS_AT = _WORDS_BYTES
_TAGS_AT = _SLOTS_AT + 8 * SLOTS
_DATA_AT = _TAGS_AT + SLOTS
BLOCK = 4 * 4096  # bytes; a multiple of the page size of Linux
DATA_BYTES = BLOCK - _DATA_AT
IDS_BYTES = 8 * SLOTS  # of the data of an asynchronous worker's page
BLOCKS = 64  # of one Arena: a descriptor and a mapping for so many workers
# faulthandler writes 100 threads of 100 frames, with two names of 500 characters each,
# at the most, so nobody comes into a neighbour's room.  Memory is used where written.
CRASH_ROOM = 16 << 20  # bytes
LONGEST_CRASH = 65536  # bytes of it that are read

_NONE, _BOOL, _INT, _FLOAT, _BODY = 1, 2, 3, 4, 5
_TAGS = {type(None): _NONE, bool: _BOOL, int: _INT, float: _FLOAT, bytes: _BODY}
NUMBERS: "frozenset[type]" = frozenset([int, float, bool, type(None)])  # kept as such
_NO_SLOTS = [None] * SLOTS  # where each result is None, none is stored


def _crash_at(number: int) -> int:
    return CRASH_ROOM * (number + 1)


class Page:
    """The views of one block; *memory* is writable and BLOCK bytes long."""

    __slots__ = (
        *("_data", "_floats", "_ints", "_tags"),
        *("arena", "ids", "number", "words"),
    )

    def __init__(
        self, memory: "memoryview", arena: "Arena | None" = None, number: int = 0
    ) -> None:
        slots = memory[_SLOTS_AT:_TAGS_AT]
        self.arena = arena
        self.number = number
        self.words = memory[:_WORDS_BYTES].cast("Q")
        self._ints = slots.cast("q")
        self._floats = slots.cast("d")
        self._tags = memory[_TAGS_AT:_DATA_AT]
        self._data = memory[_DATA_AT:BLOCK]
        self.ids = self._data[:IDS_BYTES].cast("Q")

    @property
    def fd(self) -> int:
        """The arena's descriptor, which it keeps."""
        assert self.arena is not None
        return self.arena.fd

    def handle(self) -> int:
        """Return a new descriptor for the worker, which maps the block.

        What is written to it goes into the room for crashes: it has an offset of its
        own, where the system can open a descriptor anew.
        """
        if not LINUX:
            return duplicate(self.fd)
        fd = above_stdio(os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR))
        os.lseek(fd, _crash_at(self.number), os.SEEK_SET)
        return fd

    def release(self) -> None:
        numbers = (self.words, self._ints, self._floats, self.ids)
        for view in (*numbers, self._tags, self._data):
            view.release()

    def slots_of(self, kind: type) -> "Any":
        """Return where results of this type are stored by their slot.

        A number that does not fit raises ValueError there.
        """
        if kind is float:
            return self._floats
        return _NO_SLOTS if kind is type(None) else self._ints

    def begin(self, first: int, kind: type) -> None:
        """Hold results from call *first* on, of this type; bytes: bodies."""
        self.words[KIND] = _TAGS[kind]
        self.words[HELD] = first

    def tell_apart(self, count: int) -> None:
        """From now on each slot has a tag; *count* of them are in use."""
        kind = self.words[KIND]
        self._tags[:count] = bytes((kind,)) * count
        self.words[KIND] = 0

    def keep(self, slot: int, value: "Any") -> bool:
        """Store a result that is a number or None; return False if it does not fit."""
        kind = type(value)
        try:
            self.slots_of(kind)[slot] = value
        except ValueError:  # more than 64 bits
            return False
        if not self.words[KIND]:
            self._tags[slot] = _TAGS[kind]
        return True

    def stores(self) -> "dict[type, tuple[Any, int]]":
        """Return where numbers of a type are stored by their slot, and their tag.

        For who stores many and cannot call `keep` for each; no common tag may be set.
        """
        return {kind: (self.slots_of(kind), _TAGS[kind]) for kind in NUMBERS}

    @property
    def tags(self) -> "memoryview":
        return self._tags

    def keep_body(self, slot: int, body: bytes, at: int) -> bool:
        """Store a serialised result at offset *at*; False where it does not fit."""
        length = len(body)
        end = at + length
        if length > LONGEST_BODY or end > DATA_BYTES:
            return False
        self._data[at:end] = body
        self._ints[slot] = at << 32 | length
        if not self.words[KIND]:
            self._tags[slot] = _BODY
        return True

    def crash(self) -> str:
        """Return what `faulthandler` wrote, "" for nothing, and forget it.

        Runs in the parent, when the worker has ended.
        """
        text, fd, at = b"", self.fd, _crash_at(self.number)
        if not os.pread(fd, 1, at).strip(b"\0"):
            return ""  # as nearly always
        while part := os.pread(fd, LONGEST_CRASH, at).partition(b"\0")[0]:
            os.pwrite(fd, bytes(len(part)), at)
            text, at = text or part, at + len(part)
        return text.decode("utf-8", "replace")

    def kept(self, first: int, end: int) -> "list[tuple[bool, Any]]":
        """Return (is a body, value or body) of the slots from *first* to *end*."""
        found: list[tuple[bool, Any]] = []
        common = self.words[KIND]
        for slot in range(first, min(end, SLOTS)):
            kind = common or self._tags[slot]
            number = self._ints[slot]
            if kind == _BODY:
                at, length = number >> 32, number & 0xFFFFFFFF
                found.append((True, bytes(self._data[at : at + length])))
            elif kind == _FLOAT:
                found.append((False, self._floats[slot]))
            elif kind == _INT:
                found.append((False, number))
            elif kind == _BOOL:
                found.append((False, bool(number)))
            else:
                found.append((False, None))
        return found

    def scattered(self, *, alive: bool) -> "list[tuple[int, bool, Any]]":
        """Return (call id, is a body, value or body) of what an async worker holds.

        Nothing, if it has used its slots anew meanwhile, nor where it is *alive* and
        something still comes from it that stands before them, such as an event.
        """
        turn, count = self.words[TURN], min(self.words[HELD], SLOTS)
        ids, kept = self.ids[:count].tolist(), self.kept(0, count)
        if (alive and self.words[BEHIND]) or self.words[TURN] != turn:
            return []
        return [(call_id, *each) for call_id, each in zip(ids, kept, strict=True)]


def map_page(fd: int, number: int) -> Page:
    """Return block *number* of *fd*, which the caller keeps.  Runs in the worker."""
    at = number * BLOCK
    if sys.version_info >= (3, 13):
        memory = mmap.mmap(fd, BLOCK, offset=at, trackfd=False)
    else:
        # mmap keeps a duplicate, the lowest free number, to be able to resize.  A
        # worker shall hold no descriptor but its own: the mapping outlives it.
        twin = os.dup(fd)
        os.close(twin)
        memory = mmap.mmap(fd, BLOCK, offset=at)
        os.close(twin)
        _KEPT.append(memory)
    return Page(memoryview(memory))


_KEPT: "list[mmap.mmap]" = []  # never collected: that would close a stranger's number


class Arena:
    """Blocks that the parent hands out, one to each worker."""

    def __init__(self) -> None:
        self.fd = _shared_memory(BLOCK * BLOCKS)
        self.memory = mmap.mmap(self.fd, BLOCK * BLOCKS)
        self._view = memoryview(self.memory)
        self.free = list(range(BLOCKS))

    def take(self) -> Page:
        number = self.free.pop()
        start = number * BLOCK
        page = Page(self._view[start : start + BLOCK], self, number)
        for word in range(_WORDS):
            page.words[word] = 0
        return page

    def close(self) -> None:
        """Unmap; no page may be in use."""
        self._view.release()
        self.memory.close()
        os.close(self.fd)


class Pages:
    """All pages of one program.  Any thread."""

    def __init__(self) -> None:
        self._arenas: list[Arena] = []
        self._lock = _thread.RLock()

    def take(self) -> Page:
        """Return a page, its words 0.  Raise OSError where there is no memory."""
        with self._lock:
            for arena in self._arenas:
                if arena.free:
                    return arena.take()
            arena = Arena()
            self._arenas.append(arena)
            return arena.take()

    def give_back(self, page: Page) -> None:
        """Take a page whose worker has ended.  One arena is kept for the next."""
        arena, number = page.arena, page.number
        assert arena is not None
        page.release()
        with self._lock:
            arena.free.append(number)
            empty = [each for each in self._arenas if len(each.free) == BLOCKS]
            for each in empty[1:]:
                self._arenas.remove(each)
                each.close()

    def abandon(self) -> None:
        """Close the descriptors, in a forked copy of the program."""
        kept = [os.fstat(arena.fd) for arena in self._arenas]
        _KEPT.extend(arena.memory for arena in self._arenas)
        for name in os.listdir("/proc/self/fd"):  # mmap holds duplicates
            fd = int(name)
            try:
                if any(os.path.samestat(os.fstat(fd), each) for each in kept):
                    os.close(fd)
            except OSError:  # the list's own descriptor
                continue


def _shared_memory(size: int) -> int:
    """Return a descriptor of new shared memory without a name."""
    if hasattr(os, "memfd_create"):
        fd = above_stdio(os.memfd_create("forkrpc"))
    else:
        import tempfile

        fd, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd
