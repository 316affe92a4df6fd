"""Ends workers that have grown too much (`max_growth`)."""

from time import monotonic

from .system import private_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .member import Member
    from .reactor import Reactor, Timer

PERIOD = 0.1  # seconds between two looks
SHARE = 50  # or so many times what a look takes
SPREAD = 8  # workers do not all reach the limit at one time: it differs by an eighth


class Growth:
    """Looks at the private memory of workers, in the reactor's thread.

    most: bytes that a worker may have more than when it was set up.
    """

    def __init__(
        self,
        reactor: "Reactor",
        most: int,
        members: "Callable[[], Iterable[Member]]",
    ) -> None:
        self._reactor = reactor
        self._most = most
        self._members = members
        self._first: dict[Member, int] = {}
        self._timer: Timer | None = None
        self._look_later(PERIOD)

    def _look_later(self, delay: float) -> None:
        self._timer = self._reactor.later(delay, self.look)

    def look(self) -> None:
        """Close the workers that have grown too much."""
        before = monotonic()
        first, self._first = self._first, {}
        for member in self._members():
            pid = member.life.pid
            if pid is None or not member.session.up or member.closed is not None:
                continue
            private = private_bytes(pid)
            if private is None:
                continue
            self._first[member] = first.get(member, private)
            allowed = self._most * (1 + member.place.number % SPREAD / SPREAD**2)
            if private - self._first[member] > allowed:
                member.close("it has grown more than max_growth")
        if self._timer is not None:
            self._look_later(max(PERIOD, SHARE * (monotonic() - before)))

    def stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
