"""Bytes and descriptors through a socket; executed in both processes.

An Outbox holds what is still to be written.  The count of bytes that a send took is
stored by the same call into C, so an interrupt cannot make it write anything twice.
"""

import _socket
import os
import sys
from collections import deque
from functools import partial

from .atomic import at_once, drop, leftmost, oldest, together
from .parts import owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Sequence
    from typing import Any

    Piece = bytes | memoryview
    Data = bytes | list[Piece]  # one frame

_append: "Callable[[Any, Any], None]" = deque.append
_popleft: "Callable[[Any], Any]" = deque.popleft
_ORDER = sys.byteorder
_CLOEXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
_INT = 4  # bytes of a descriptor number in SCM_RIGHTS
GATHERED = 64 << 10  # bytes of a piece that is written together with what is before it
# Of a socket's buffer, for large pieces.  Linux doubles it; more falls out of caches.
SEND_BYTES = 800_000
MOST_GATHERED = 64  # pieces; Linux takes 1024 at once
MOST_COUNTS = 64  # of writes, that are added up before each
LOST = -1  # in the place of a descriptor
MOST_HANDLES = 64  # in one frame; Linux allows 253 (SCM_MAX_FD)


class Outbox:
    """Frames on their way into a socket, oldest first, with their descriptors.

    Owns the descriptors put into it: they are closed once they are sent, or by
    `clear`.  One thread at a time may be in `flush` (its caller holds a lock).
    """

    def __init__(self, sock: "socket", flags: int = 0) -> None:
        self.frames: deque[tuple[Piece, tuple[int, ...]]] = deque()
        # Bytes that the socket has taken, of frames[0] and perhaps of what follows.
        self._taken: deque[int] = deque()
        self._spent: deque[int] = deque()  # descriptors that were sent
        self._wide = False
        self._sock = sock
        self._flags = flags | getattr(_socket, "MSG_NOSIGNAL", 0)

    def put(self, data: "Data", handles: "Sequence[int]" = ()) -> None:
        """Add a frame; one that comes in pieces has no descriptors."""
        if type(data) is list:
            self.frames.extend(entries(data))
        else:
            self.frames.append((data, tuple(handles)))  # type: ignore[arg-type]

    def write(
        self, data: "Data", queues: "tuple[deque[Any], ...]", *items: object
    ) -> bool:
        """Put one frame, and in the same step the items into *queues*; then `flush`.

        Items for which there is no queue are nobody's.
        """
        frames, taken = self.frames, self._taken
        if type(data) is list:
            self.widen()
            appends = [queue.append for queue in queues]
            together((frames.extend, *appends), (entries(data), *items))
            return self.flush()
        drop(map(_append, (frames, *queues), ((data, ()), *items)))
        if len(frames) > 1:
            return self.flush()
        try:
            taken.extend(map(self._sock.send, (data,), (self._flags,)))  # type: ignore[arg-type]
        except BlockingIOError:
            return False
        if taken[0] < len(data):
            return self.flush()
        drop(map(_popleft, (frames, taken)))
        return True

    def widen(self) -> None:
        """Have the socket take more at once, before the first large piece."""
        if not self._wide:
            self._wide = True
            self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, SEND_BYTES)

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
                    if len(frames) > 1 and len(frames[1][0]) >= GATHERED:
                        self.widen()
                        self._gather(done)
                    elif done or handles:
                        self._send(memoryview(data)[done:], handles)
                    else:
                        taken.extend(map(self._sock.send, (data,), (self._flags,)))
                except BlockingIOError:
                    return False
                if len(taken) > MOST_COUNTS:
                    together(
                        (drop, taken.append), (leftmost(taken, len(taken)), sum(taken))
                    )
            elif handles:
                at_once(
                    frames.popleft, taken.clear, partial(self._spent.extend, handles)
                )
                self._close_spent()
            elif len(taken) == 1 and done == len(data):  # as most often, and faster
                drop(map(_popleft, (frames, taken)))
            else:
                rest = (done - len(data),) if done > len(data) else ()
                together(
                    (drop, drop, taken.extend),
                    (leftmost(frames, 1), leftmost(taken, len(taken)), rest),
                )
        return True

    def _gather(self, done: int) -> None:
        """Write once, several entries; *done* bytes of the first were taken."""
        views = [memoryview(self.frames[0][0])[done:]]
        handles = self.frames[0][1]
        for data, others in oldest(self.frames, MOST_GATHERED)[1:]:
            if others or handles:
                break
            views.append(memoryview(data))
        if len(views) == 1:
            self._send(views[0], handles)
        else:
            send = self._sock.sendmsg
            self._taken.extend(map(send, (views,), ((),), (self._flags,)))

    def _send(self, view: "Piece", handles: "tuple[int, ...]") -> None:
        """Write once; the count is stored by the call into C that writes."""
        sock, flags = self._sock, self._flags
        if handles and not self._taken:
            rights = b"".join(fd.to_bytes(_INT, _ORDER) for fd in handles)
            extra = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
            self._taken.extend(map(sock.sendmsg, ([view],), (extra,), (flags,)))
        else:
            self._taken.extend(map(sock.send, (view,), (flags,)))

    def own(self) -> None:
        """Copy what somebody could change of what was not written."""
        frames = self.frames
        for at, (data, handles) in enumerate(frames):
            if type(data) is not bytes:
                frames[at] = owned(data), handles

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


def entries(pieces: "list[Piece]") -> "list[tuple[Piece, tuple[int, ...]]]":
    """Return what is put into `frames` for the pieces of one frame."""
    return [(piece, ()) for piece in pieces]


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
