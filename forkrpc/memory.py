"""Memory for byte strings that are still to come; both processes.

It is not filled with zeros before, and what was not written to takes up nothing, so its
length may be what a peer has merely promised.  A large block is made of huge pages:
most of what fresh memory costs is one fault for each of its pages.
"""

from .system import LINUX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HUGE = 4 << 20  # bytes from which on huge pages are asked for; below, malloc reuses
_PAGE = 4096  # bytes
_MADV_HUGEPAGE = 14
_PyBUF_WRITE = 0x200


class Room:
    """Memory for one byte string: a bytearray, or bytes, which nobody else has yet.

    view: where it is written.  Raise MemoryError.
    """

    __slots__ = ("_thing", "_writable", "view")

    def __init__(self, length: int, *, writable: bool) -> None:
        functions = _functions()
        self._writable = writable
        if functions is None:
            self._thing: Any = bytearray(length)
            self.view = memoryview(self._thing)
        elif writable:
            self._thing = functions.new_bytearray(length)
            self.view = memoryview(self._thing)
        else:
            self._thing, self.view = functions.new_bytes(length)

    def content(self) -> "bytes | bytearray":
        """Return what was written.  The view is not used any more."""
        if self._writable or type(self._thing) is bytes:
            return self._thing  # type: ignore[no-any-return]
        return bytes(self._thing)


def copy_of(buffer: "bytes | bytearray | memoryview") -> "bytes | bytearray":
    """Return a copy of *buffer*, whose items are bytes."""
    room = Room(len(buffer), writable=True)
    room.view[:] = buffer
    return room.content()


_found: "list[_Functions | None]" = []


def _functions() -> "_Functions | None":
    if not _found:
        try:
            _found.append(_Functions())
        except (ImportError, AttributeError, OSError):  # no _ctypes, or another one
            _found.append(None)
    return _found[0]


class _Functions:
    """What this needs of Python's C interface, and madvise.

    Not by ctypes, which would put 1 MiB into every worker.
    """

    def __init__(self) -> None:
        import _ctypes

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]

        class Thing(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "O"

        class Number(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "P"

        class Function(_ctypes.CFuncPtr):
            # It holds the interpreter's lock, and raises what it has set.
            _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
            _restype_ = Thing

        def function(name: str) -> "Any":
            return Function(_ctypes.dlsym(library, name))

        self._number: Any = Number
        self._thing: Any = Thing
        self._bytes = function("PyBytes_FromStringAndSize")
        self._bytearray = function("PyByteArray_FromStringAndSize")
        self._view = function("PyMemoryView_FromMemory")
        self._address = function("PyByteArray_AsString")
        self._address.restype = Number
        self._call = _ctypes.call_function
        self._madvise = _ctypes.dlsym(library, "madvise") if LINUX else None

    def new_bytearray(self, length: int) -> bytearray:
        array: bytearray = self._bytearray(None, self._number(length))
        if length >= HUGE:
            self._want_huge_pages(self._address(self._thing(array)), length)
        return array

    def new_bytes(self, length: int) -> "tuple[bytes, memoryview]":
        new: bytes = self._bytes(None, self._number(length))
        address = id(new) + bytes.__basicsize__ - 1  # behind the head; a zero ends it
        if length >= HUGE:
            self._want_huge_pages(address, length)
        return new, self._view(
            self._number(address), self._number(length), _PyBUF_WRITE
        )

    def _want_huge_pages(self, address: int, length: int) -> None:
        """Ask for them in what lies between whole pages; it is only advice."""
        if self._madvise is None:
            return
        first = -(-address // _PAGE) * _PAGE
        end = (address + length) // _PAGE * _PAGE
        number = self._number
        self._call(self._madvise, (number(first), number(end - first), _MADV_HUGEPAGE))
