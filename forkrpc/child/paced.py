"""A blocking worker of a pool: tells in its page for how long it has executed calls.

The pool gives it as many calls at once as take a certain time.  Measured there, the
time to wake a process would count, which is a hundred times that of a quick call.
"""

from time import monotonic_ns

from ..progress import SPENT
from .sync import Sync


class Paced(Sync):
    """As Sync.  The time is told before the answers that it belongs to leave."""

    _began = 0  # time.monotonic_ns(); 0: it does nothing

    def _busy(self) -> bool:
        if not self._began:
            self._began = monotonic_ns()
        return super()._busy()

    def _idle(self) -> None:
        self._note()
        self._began = 0
        super()._idle()

    def _idle_behind(self, call_id: int) -> None:
        self._note()
        super()._idle_behind(call_id)

    def _note(self) -> None:
        if self._began:
            now = monotonic_ns()
            self._words[SPENT] += now - self._began
            self._began = now
