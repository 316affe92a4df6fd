"""When results that are held back have to leave the worker."""

from time import monotonic

QUICK = 50e-6  # seconds; the result of a slower call leaves at once
STRIDE = 8  # calls between two looks at the clock while they are very quick


class Clock:
    """Tells when results have to leave: a slow call's at once, others in time.

    look_at: id of the call behind which to ask next; not behind each while they are
    quick, for a look costs as much as a third of the shortest call.
    """

    __slots__ = ("_looked", "_since", "look_at")

    def __init__(self, call_id: int) -> None:
        self._looked = call_id - 1  # calls behind which the clock was read last
        self._since = monotonic()
        self.look_at = call_id

    def late(self, call_id: int, deadline: float) -> bool:
        """Return whether what is held has to leave; *call_id* has just been answered.

        deadline: time.monotonic() at which it has to leave anyway; 0: nothing is held.
        """
        now = monotonic()
        took = (now - self._since) / (call_id - self._looked)
        self._since, self._looked = now, call_id
        self.look_at = call_id + (STRIDE if took < QUICK / STRIDE else 1)
        return took > QUICK or now > deadline > 0
