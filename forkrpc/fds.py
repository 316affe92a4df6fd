"""Bytes and descriptors through a socket; executed in both processes.

An Outbox holds what is still to be written.  The count of bytes that a send took is
stored by the same call into C, so an interrupt cannot make it write anything twice.
"""

import _socket
import os
import sys
from collections import deque
from functools import partial

from .atomic import at_once, drop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Sequence
    from typing import Any

_append: "Callable[[Any, Any], None]" = deque.append
_popleft: "Callable[[Any], Any]" = deque.popleft
_ORDER = sys.byteorder
_CLOEXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
_INT = 4  # bytes of a descriptor number in SCM_RIGHTS
LOST = -1  # in the place of a descriptor
MOST_HANDLES = 64  # in one frame; Linux allows 253 (SCM_MAX_FD)


class Outbox:
    """Frames on their way into a socket, oldest first, with their descriptors.

    Owns the descriptors put into it: they are closed once they are sent, or by
    `clear`.  One thread at a time may be in `flush` (its caller holds a lock).
    """

    def __init__(self, sock: "socket", flags: int = 0) -> None:
        self.frames: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._taken: deque[int] = deque()  # bytes of frames[0] the socket has taken
        self._spent: deque[int] = deque()  # descriptors that were sent
        self._sock = sock
        self._flags = flags | getattr(_socket, "MSG_NOSIGNAL", 0)

    def put(self, data: bytes, handles: "Sequence[int]" = ()) -> None:
        self.frames.append((data, tuple(handles)))

    def write(
        self, data: bytes, queues: "tuple[deque[Any], ...]", *items: object
    ) -> bool:
        """Put one frame, and in the same step the items into *queues*; then `flush`.

        Items for which there is no queue are nobody's.
        """
        frames, taken = self.frames, self._taken
        drop(map(_append, (frames, *queues), ((data, ()), *items)))
        if len(frames) > 1:
            return self.flush()
        try:
            taken.extend(map(self._sock.send, (data,), (self._flags,)))
        except BlockingIOError:
            return False
        if taken[0] < len(data):
            return self.flush()
        drop(map(_popleft, (frames, taken)))
        return True

    def flush(self) -> bool:
        """Write as much as the socket takes; return whether nothing is left.

        Raise OSError if the peer is gone.
        """
        frames, taken = self.frames, self._taken
        while frames:
            data, handles = frames[0]
            done = sum(taken) if taken else 0
            if done < len(data):
                try:
                    if done or handles:
                        self._send(memoryview(data)[done:], handles)
                    else:
                        taken.extend(map(self._sock.send, (data,), (self._flags,)))
                except BlockingIOError:
                    return False
            elif handles:
                at_once(
                    frames.popleft, taken.clear, partial(self._spent.extend, handles)
                )
                self._close_spent()
            elif len(taken) == 1:  # as most often, and faster
                drop(map(_popleft, (frames, taken)))
            else:
                at_once(frames.popleft, taken.clear)
        return True

    def _send(self, view: "bytes | memoryview", handles: "tuple[int, ...]") -> None:
        """Write once; the count is stored by the call into C that writes."""
        sock, flags = self._sock, self._flags
        if handles and not self._taken:
            rights = b"".join(fd.to_bytes(_INT, _ORDER) for fd in handles)
            extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
            self._taken.extend(map(sock.sendmsg, ([view],), (extra,), (flags,)))
        else:
            self._taken.extend(map(sock.send, (view,), (flags,)))

    def clear(self) -> None:
        """Forget what was not written, and close its descriptors."""
        while self.frames:
            handles = self.frames[0][1]
            at_once(
                partial(self._spent.extend, handles),
                self.frames.popleft,
                self._taken.clear,
            )
        self._close_spent()

    def _close_spent(self) -> None:
        spent = self._spent
        while spent:
            at_once(partial(os.close, spent[0]), spent.popleft)


class HandleReader:
    """Reads a stream that carries descriptors; `handles` are those not yet claimed.

    strict: descriptors that this process has no room for are an OSError; else LOST
    stands in the place of a message's.
    """

    def __init__(self, sock: "socket", *, strict: bool = True) -> None:
        self._sock = sock
        self._strict = strict
        self.handles: deque[int] = deque()

    def __call__(self, size: int, flags: int = 0) -> bytes:
        """Read once, as `recv`.  Raise OSError if descriptors were lost on the way."""
        data, extra, told, _ = self._sock.recvmsg(
            size, _socket.CMSG_SPACE(MOST_HANDLES * _INT), _CLOEXEC | flags
        )
        for level, kind, rights in extra:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                for at in range(0, len(rights) - len(rights) % _INT, _INT):
                    fd = int.from_bytes(rights[at : at + _INT], _ORDER)
                    self.handles.append(above_stdio(fd))
        if told & _socket.MSG_CTRUNC and not self._strict:
            self.handles.append(LOST)
        elif told & _socket.MSG_CTRUNC:
            import errno

            raise OSError(
                errno.EMFILE, "descriptors sent to this process did not fit its table"
            )
        return data

    def claim(self, count: int) -> "list[int]":
        return [self.handles.popleft() for _ in range(count)]


def above_stdio(fd: int) -> int:
    """Return *fd*, or a duplicate above 2 in its place (it closes *fd* then).

    A program that runs with its descriptors 0-2 closed gets those numbers for new
    sockets; what a child prints would end in them.
    """
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def duplicate(fd: int, lowest: int = 3) -> int:
    """Return a duplicate of *fd* with a number of *lowest* or above, close-on-exec."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def socket_pair() -> "tuple[socket, socket]":
    """Return two connected stream sockets with numbers above 2; close-on-exec."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        return _lifted(one), _lifted(other)
    except OSError:
        one.close()
        other.close()
        raise


def _lifted(sock: "socket") -> "socket":
    fd = sock.fileno()
    if fd > 2:
        return sock
    lifted = _socket.socket(fileno=duplicate(fd))
    sock.close()
    return lifted


def close_all(handles: "Sequence[int]") -> None:
    for fd in handles:
        os.close(fd)
