"""A worker without a library: fork, socketpair, a length and a pickle per message.

What the machine allows; the two ways of waiting are the two ends of what a library
can do.  Blocking sleeps in the kernel for each message; spinning keeps two cores busy.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pickle import HIGHEST_PROTOCOL, dumps, loads
from typing import Any

LENGTH = struct.Struct("<I")  # of the pickle that follows, in bytes
READ_BYTES = 65536


def receive_blocking(sock: socket.socket) -> bytes:
    """Return what arrived, b"" at the end; sleeps."""
    return sock.recv(READ_BYTES)


def receive_spinning(sock: socket.socket) -> bytes:
    """Return what arrived, b"" at the end; asks again and again."""
    receive, flags = sock.recv, socket.MSG_DONTWAIT
    while True:
        try:
            return receive(READ_BYTES, flags)
        except BlockingIOError:
            pass


Receive = Callable[[socket.socket], bytes]


def read_message(sock: socket.socket, receive: Receive) -> Any:
    """Return the next value; EOFError at the end.  One message is under way at most."""
    data = receive(sock)
    if not data:
        raise EOFError
    (length,) = LENGTH.unpack_from(data)
    while len(data) < LENGTH.size + length:
        data += receive(sock)
    return loads(memoryview(data)[LENGTH.size :])


def write_message(sock: socket.socket, value: Any) -> None:
    """Send one value."""
    body = dumps(value, HIGHEST_PROTOCOL)
    sock.sendall(LENGTH.pack(len(body)) + body)


def serve(
    sock: socket.socket, function: Callable[[Any], Any], receive: Receive
) -> None:
    """Answer messages until the end of file.  Runs in the worker."""
    while True:
        try:
            value = read_message(sock, receive)
        except EOFError:
            return
        write_message(sock, function(value))


class RawPeer:
    """The parent's end of such a worker."""

    def __init__(self, function: Callable[[Any], Any], receive: Receive) -> None:
        self._receive = receive
        self._sock, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            # The worker must not return into its copy of the program, whatever comes.
            try:
                self._sock.close()
                serve(theirs, function, receive)
            finally:
                os._exit(0)
        theirs.close()

    def call(self, value: Any) -> Any:
        """Send *value* and wait for the answer."""
        write_message(self._sock, value)
        return read_message(self._sock, self._receive)

    def close(self) -> None:
        """End the worker and wait for it."""
        self._sock.close()
        os.waitpid(self._pid, 0)
