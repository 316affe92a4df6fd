"""The blocking backend: one call after another, results and events in that order."""

import _thread
import os
import sys
from _pickle import dumps

from .. import outcome, wire
from ..fds import Outbox
from ..progress import BEGUN, SINCE
from ..serialisers import Codec, PickleCodec
from ..system import mortal
from .leave import exit_status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any


class Sync:
    """The worker's end of its connection.

    codec, function: set once they are found; no call is read before.
    """

    codec: Codec
    function: "Callable[..., Any]"

    def __init__(
        self, channel: "socket", spec: "dict[str, Any]", words: "memoryview | None"
    ) -> None:
        self._channel = channel
        assert words is not None
        self._words = words
        self._timed = spec["timed"]
        self._mortal = spec["mortal"]
        self._limit = spec["max_frame"]
        self._decoder = wire.Decoder(self._limit, spec["buflen"])
        self._outbox = Outbox(channel)
        self._outbox.put(wire.GREETING)
        self._writing = _thread.RLock()
        self._pid = os.getpid()
        self._done = 0  # id of the last call that has an answer
        self._ended: int | None = None  # exit status, once known

    def serve(self) -> int:
        """Execute calls until the end of input; return the exit status."""
        self._send(wire.encode(wire.READY))
        while self._ended is None:
            try:
                self._turn()
            except Exception:
                # A signal handler of the user raised between two calls; every answer
                # is either stored or still to be made, so the work goes on.
                sys.excepthook(*sys.exc_info())
        self.flush()
        return self._ended

    def _turn(self) -> None:
        frames = self._decoder.frames
        while frames and self._ended is None:
            self._obey(frames[0])
            frames.popleft()
        if self._ended is not None:
            return
        self._may_die(False)
        try:
            if not self._decoder.receive(self._channel.recv):
                self._ended = 0
        except ConnectionError:
            self._ended = 0
        finally:
            self._may_die(True)

    def _may_die(self, yes: bool) -> None:
        if self._mortal:
            mortal(yes)

    def _obey(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALL:
            self._calls(frame)
        elif frame.kind == wire.CLOSE:
            self._ended = 0
        elif frame.kind == wire.DEFINE and isinstance(self.codec, PickleCodec):
            self.codec.learn(frame.body)
        else:
            raise SystemError(f"{frame!r} from the program")

    def _calls(self, frame: wire.Frame) -> None:
        keywords = frame.flags & wire.KEYWORDS
        for call_id, body in enumerate(frame.bodies(), frame.first):
            if call_id > self._done:
                self._execute(call_id, body, keywords)
                if self._ended is not None:
                    return

    def _execute(self, call_id: int, body: "bytes | memoryview", keywords: int) -> None:
        self._begin(call_id)
        try:
            args = self._load(body)
            if keywords:
                value = self.function(*args[:-1], **args[-1])
            else:
                value = self.function(*args)
            self._answer(call_id, self.codec.dump((value,)))
        except SystemExit as error:
            self._ended = exit_status_of(error)
        except BaseException as error:  # fails this call only; the worker goes on
            if self._done < call_id:
                self._fail(call_id, error)
            else:
                raise
        if os.getpid() != self._pid:
            os._exit(0)  # a copy that the function forked, and that returned from it

    def _load(self, body: "bytes | memoryview") -> "Any":
        try:
            return self.codec.load(body)
        except Exception as error:
            raise _unloadable("arguments", error) from error

    def _begin(self, call_id: int) -> None:
        words = self._words
        if self._timed:
            from time import monotonic_ns

            words[SINCE] = monotonic_ns()
        words[BEGUN] = call_id

    def _answer(self, call_id: int, body: bytes) -> None:
        self._check(body)
        self._done = call_id
        self._send(wire.encode(wire.RESULT, body, first=call_id))

    def _check(self, body: bytes) -> None:
        if len(body) > self._limit:
            from ..errors import SerialiserError

            raise SerialiserError(
                f"result of {len(body)} bytes, max_frame is {self._limit}"
            )

    def _fail(self, call_id: int, error: BaseException) -> None:
        trusted = self.codec.trusted
        packed = outcome.pack(error, self._dump_one if trusted else None)
        self._done = call_id
        self._send(wire.encode(wire.ERROR, self._plain(packed), first=call_id))

    def _dump_one(self, value: object) -> bytes:
        return self.codec.dump((value,))

    def _plain(self, packed: object) -> bytes:
        """Serialise what the library itself says about an error."""
        if self.codec.trusted:
            return dumps(packed, 4)
        from ..serialisers import PAIRS

        return PAIRS["data"]()[0]((packed,))

    def _send(self, data: bytes) -> bool:
        with self._writing:
            self._outbox.put(data)
            try:
                return self._outbox.flush()
            except OSError:  # the program is gone; the next read sees it too
                self._outbox.clear()
                return False

    def fail_setup(self, text: str) -> None:
        self._send(wire.encode(wire.FAILED, text.encode("utf-8", "replace")))

    def define(self, definition: bytes) -> None:
        self._send(wire.encode(wire.DEFINE, definition))

    def event(self, args: "tuple[object, ...]") -> None:
        body = self.codec.dump(args)
        self._check(body)
        self._send(wire.encode(wire.EVENT, body))

    def flush(self) -> bool:
        with self._writing:
            try:
                return self._outbox.flush()
            except OSError:
                return False

    def retire(self) -> None:
        self._send(wire.encode(wire.RETIRE))


def _unloadable(what: str, error: Exception) -> Exception:
    from ..errors import SerialiserError

    kind = type(error).__name__
    hint = ""
    if isinstance(error, ImportError):
        hint = "; the worker does not find it: is its folder on sys.path?"
    return SerialiserError(f"{what} cannot be loaded: {kind}: {error}{hint}")
