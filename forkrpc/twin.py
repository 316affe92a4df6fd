"""A template's twin, which has asyncio as well: async workers are forked from it.

So a second one costs a fork and no import, and a worker that never asked for asyncio
does not have it.  The twin is forked when it is first needed.  Steps that run code of
the user run once, in the template: behind one, the next asynchronous worker gets a new
twin.  Other steps go to both.
"""

import _thread
from _pickle import dumps

from . import wire
from .fds import close_all, duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .link import Link

MODULES = ("asyncio", "forkrpc.child.aio")
SHARED = frozenset([wire.STATE, wire.VALUES, wire.HANDLES])
ALONE = frozenset([wire.REQUIRE, wire.EVAL])


class Twin:
    """The twin of the template of *link*; made on first use.  Any thread.

    lock: held while a step is queued for both.
    """

    def __init__(self, link: "Link") -> None:
        self.lock = _thread.RLock()
        self._link = link
        self._twin: Link | None = None

    def get(self) -> "Link":
        """Return the link to the twin."""
        with self.lock:
            twin = self._twin
            if twin is None or twin.ended:
                twin = self._twin = self._link.fork(None)
                twin.send(wire.REQUIRE, dumps(MODULES))
            return twin

    def step(self, kind: int, body: bytes, handles: "Sequence[int]") -> None:
        """A step goes to the template.  The caller holds the lock and the handles."""
        twin = self._twin
        if twin is None:
            return
        if kind in SHARED:
            own: list[int] = []
            try:
                for fd in handles:
                    own.append(duplicate(fd))
            except OSError:  # no descriptors left: the next one is forked anew
                close_all(own)
            else:
                twin.send(kind, body, own)
                return
        self.close()

    def close(self) -> None:
        """End the twin; its workers go on."""
        with self.lock:
            twin, self._twin = self._twin, None
            if twin is not None:
                twin.close()
