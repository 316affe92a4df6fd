"""How many items of a map share a chunk, and how many chunks are under way.

Pure decisions: what was measured is told.
"""

ENOUGH = 1e-3  # seconds of work in a chunk, beside which its own cost is small
LONGEST = 4e-3  # in one that is a small share of what is left: fewer to wake up for
LEAST = 0.5e-3  # seconds of work below which it is not cut for an even end
OWN = 20e-6  # seconds that a chunk takes beside its items
TELLING = 0.2e-3  # seconds of a chunk by which its items can be judged
GROWTH = 64  # times as large as the largest that was measured
MOST_BYTES = 1 << 20  # in a chunk
SHARE = 2  # chunks for each worker in what is left


class Pacing:
    """Chooses the size of the next chunk.

    workers: how many there are at most.  fixed: the size that the user has chosen, None
    for the one that fits.

    settled: the next chunks are about as long as one that was measured.
    """

    def __init__(self, workers: int, fixed: "int | None" = None) -> None:
        self.settled = fixed is not None
        self._workers = workers
        self._fixed = fixed
        self._size = 1  # items in ENOUGH
        self._most = 1  # in LONGEST
        self._least = 1  # in LEAST
        self._takable = 1 << 62  # that come in ENOUGH

    def size(self, left: "int | None") -> int:
        """Return how many items the next chunk has.  left: items, None: unknown."""
        if self._fixed is not None:
            return self._fixed
        if left is None:
            return min(self._size, self._takable)
        share = left // (SHARE * self._workers)
        return min(self._most, self._takable, max(share, self._least, 1))

    def note_taking(self, count: int, seconds: float) -> None:
        """Tell how long it took to have *count* items."""
        self._takable = max(1, int(ENOUGH * count / max(seconds, 1e-9)))

    def note(self, count: int, seconds: float, size_bytes: int = 0) -> None:
        """Tell how long a chunk of *count* items took, and its length."""
        pace = max(seconds - OWN, seconds / 8, 1e-9) / count
        fits, most = int(ENOUGH / pace), int(LONGEST / pace)
        if size_bytes:
            most = min(most, MOST_BYTES * count // size_bytes)
            fits = min(fits, most)
        self._least = min(fits, int(LEAST / pace))
        # A small chunk tells little about a large one: the first calls are slower.
        self._size = max(1, min(fits, max(self._size, count * GROWTH)))
        self._most = max(1, min(most, max(self._most, count * GROWTH)))
        self.settled = self.settled or seconds >= TELLING
