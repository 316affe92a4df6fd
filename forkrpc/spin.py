"""Look again for a moment before going to sleep; both processes.

To wake a sleeping processor costs 50 us on a virtual machine, more than a whole round
trip takes when both sides are still awake.
"""

from time import monotonic

from .system import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Header

    Recv = Callable[..., bytes]

LONGEST = 50e-6  # seconds; more wins nothing, and is taken from others
WORTH_IT = 200e-6  # seconds; a wait this short is mostly the waking up
TRIES = 32  # misses in a row after which it rests
LOOKS = 8  # each takes about 1.2 us
FIRST = 3  # waits: for the greeting, for READY, for the first answer
REST = 96  # waits without a look; then both sides try again, and soon together


class Spin:
    """Whether to look before sleeping: while it hits now and then.

    Both sides have to be awake for a hit.  Where they share one processor, by choice
    or by the scheduler's, none comes, and looking would only hold up the other side.

    looks: how often to look before the clock is asked.
    misses: how often in a row nothing came.
    """

    def __init__(self) -> None:
        self._useful = usable_cpus() > 1
        self.misses = 0
        # Waits still to come without a look: the first are for a process to start.
        self._rest = FIRST if self._useful else 0
        self.looks = LOOKS if self._useful and not self._rest else 1
        self._since = 0.0

    def look_on(
        self, look: "Callable[[Recv, int], Header | None]", recv: "Recv"
    ) -> "Header | None":
        """Go on looking, when the first looks found nothing; return what was found.

        None when the time is up, and when the peer has broken the connection.
        """
        end = self._end()
        while monotonic() < end:
            try:
                header = look(recv, LOOKS)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            self.found()
            return header
        if end:
            self._miss(1)
        return None

    def found(self) -> None:
        """Learn that something came while looking."""
        self.misses = 0

    def until(self, look: "Callable[[], bool]") -> bool:
        """Call *look* until it is true or the time is up; return what it said last."""
        if look():
            return True
        end = self._end()
        while monotonic() < end:
            if look():
                self.found()
                return True
        if end:
            self._miss(1)
        return False

    def begins(self) -> bool:
        """Return whether to look now, and for how long: as long as `goes_on`."""
        return self._end() > 0

    def goes_on(self) -> bool:
        if monotonic() < self._since + LONGEST:
            return True
        self._miss(1)
        return False

    def _end(self) -> float:
        """Return the time at which looking ends, 0: look no more."""
        if self.looks == 1:
            self.rested()
            return 0.0
        self._since = monotonic()
        return self._since + LONGEST

    def rested(self) -> None:
        """Count a wait without a look, while it rests."""
        if self._rest:
            self._rest -= 1
            if not self._rest:
                self.looks = LOOKS

    def woken(self) -> None:
        """Learn from a sleep that began behind looks in vain and has ended now."""
        if self.looks > 1 and monotonic() - self._since > WORTH_IT:
            self._miss(TRIES // 4)

    def _miss(self, count: int) -> None:
        self.misses += count
        if self.misses >= TRIES:
            self.misses, self._rest, self.looks = 0, REST, 1
