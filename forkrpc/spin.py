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
WORTH_IT = 200e-6  # seconds; a wait this short is mostly the waking up
TRIES = 32  # misses in a row after which it rests
REST = 96  # waits without a look; then both sides try again, and soon together


class Spin:
    """Whether to look before sleeping: while it hits now and then.

    Both sides have to be awake for a hit.  Where they share one processor, by choice
    or by the scheduler's, none comes, and looking would only hold up the other side.
    """

    def __init__(self) -> None:
        self._useful = usable_cpus() > 1
        self._misses = 0
        self._rest = 0  # waits still to come without a look
        self._since = 0.0

    def until(self, look: "Callable[[], bool]") -> bool:
        """Call *look* until it is true or the time is up; return what it said last."""
        if look():
            return True
        if self._rest or not self._useful:
            self._rest -= self._useful
            return False
        self._since = since = monotonic()
        end = since + LONGEST
        while monotonic() < end:
            if look():
                self._misses = 0
                return True
        self._miss(1)
        return False

    def begins(self) -> bool:
        """Return whether to look now, and for how long: as long as `goes_on`."""
        if self._rest or not self._useful:
            self._rest -= self._useful
            return False
        self._since = monotonic()
        return True

    def goes_on(self) -> bool:
        if monotonic() < self._since + LONGEST:
            return True
        self._miss(1)
        return False

    def hit(self) -> None:
        self._misses = 0

    def woken(self) -> None:
        """Learn from a sleep that began behind `until` and has ended now."""
        if not self._rest and monotonic() - self._since > WORTH_IT:
            self._miss(TRIES // 4)

    def _miss(self, count: int) -> None:
        self._misses += count
        if self._misses >= TRIES:
            self._misses, self._rest = 0, REST
