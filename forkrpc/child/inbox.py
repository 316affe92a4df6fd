"""What a blocking worker reads: it looks for a while, then sleeps on the socket."""

from _socket import MSG_DONTWAIT

from ..decoder import Decoder
from ..spin import Spin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from ..wire import Header


class Inbox:
    """Reads frames in the worker's main thread, the only one that may.

    frames: whole ones; who handles one takes it out.
    chunks: what was read; after `next_header` gave one, that frame alone.
    """

    def __init__(self, channel: "socket", spec: "dict[str, Any]") -> None:
        self._decoder = decoder = Decoder(spec["max_frame"], spec["buflen"])
        decoder.recv_into = channel.recv_into
        self._recv = channel.recv
        self._spin = Spin()
        self.frames, self.chunks = decoder.frames, decoder.chunks
        self.expect_no_greeting = decoder.expect_no_greeting
        self.at_rest = decoder.at_rest

    def next_header(self) -> "Header | None":
        """Wait for something; return the header of a small frame that came alone, or
        None, where `receive` finds what came.  Nothing may be left of earlier reads.
        """
        look, spin, recv = self._decoder.look, self._spin, self._recv
        if spin.looks > 1:
            try:
                header = look(recv, spin.looks)
                if spin.misses:
                    spin.found()
                return header
            except BlockingIOError:
                header = spin.look_on(look, recv)
            if header is not None or not self.at_rest():
                return header
        else:
            spin.rested()
        header = look(recv, 1, 0)
        spin.woken()
        return header

    def receive(self, flags: int) -> bool:
        """Read once; return False at the end of input.  Raise BlockingIOError."""
        try:
            return self._decoder.receive(self._recv, flags) > 0
        except ConnectionError:
            return False

    def wait_for_more(self, read: "Callable[[int], object]") -> None:
        """Have *read* read once, with or without MSG_DONTWAIT; wait for something."""

        def look() -> bool:
            try:
                read(MSG_DONTWAIT)
            except BlockingIOError:
                return False
            return True

        if not self._spin.until(look):
            read(0)
            self._spin.woken()
