"""Look again for a moment before going to sleep; both processes.

To wake a sleeping processor costs 50 us on a virtual machine, more than a whole round
trip takes when both sides are still awake.
"""

from time import monotonic

from .system import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 50e-6  # seconds; more wins nothing, and is taken from others
SHORTEST = 2e-6  # below this it is not worth one look
WORTH_IT = 200e-6  # seconds; a wait this short is mostly the waking up


class Spin:
    """How long to look before sleeping: doubled by short waits, halved by long ones.

    On a single processor it never looks twice: the other side could not run.
    """

    def __init__(self) -> None:
        self._longest = LONGEST if usable_cpus() > 1 else 0.0
        self._budget = self._longest
        self._since = 0.0

    def until(self, look: "Callable[[], bool]") -> bool:
        """Call *look* until it is true or the time is up; return what it said last."""
        if look():
            return True
        self._since = since = monotonic()
        end = since + self._budget
        while monotonic() < end:
            if look():
                self._budget = min(self._budget * 2, self._longest)
                return True
        return False

    def woken(self) -> None:
        """Learn from a sleep: it began behind `until`, and has ended now."""
        if monotonic() - self._since < WORTH_IT:
            self._budget = min(max(self._budget * 2, SHORTEST), self._longest)
        else:
            self._budget = self._budget / 2 if self._budget > SHORTEST else 0.0
