"""How many items of a map share a chunk, and how many chunks are under way.

Pure decisions: what was measured is told.
"""

ENOUGH = 1e-3  # seconds of work in a chunk, beside which its own cost is small
LEAST = 0.5e-3  # seconds of work below which it is not cut for an even end
GROWTH = 32  # times as large as the largest that was measured
MOST_BYTES = 1 << 20  # in a chunk
SHARE = 4  # chunks for each worker in what is left


class Pacing:
    """Chooses the size of the next chunk.

    workers: how many there are at most.  fixed: the size that the user has chosen, None
    for the one that fits.
    """

    def __init__(self, workers: int, fixed: "int | None" = None) -> None:
        self._workers = workers
        self._fixed = fixed
        self._size = 1
        self._least = 1  # items in LEAST
        self._takable = 1 << 62  # items that come in ENOUGH

    def size(self, left: "int | None") -> int:
        """Return how many items the next chunk has.  left: items, None: unknown."""
        if self._fixed is not None:
            return self._fixed
        size = min(self._size, self._takable)
        if left is None:
            return size
        share = left // (SHARE * self._workers)
        return min(size, max(share, self._least, 1))

    def note_taking(self, count: int, seconds: float) -> None:
        """Tell how long it took to have *count* items."""
        self._takable = max(1, int(ENOUGH * count / max(seconds, 1e-9)))

    def note(self, count: int, seconds: float, size_bytes: int = 0) -> None:
        """Tell how long a chunk of *count* items took, and its length."""
        pace = max(seconds, 1e-9) / count
        fits = max(1, int(ENOUGH / pace))
        if size_bytes:
            fits = max(1, min(fits, MOST_BYTES * count // size_bytes))
        self._least = min(fits, int(LEAST / pace))
        # A small chunk tells little about a large one: the first calls are slower.
        self._size = min(fits, max(self._size, count * GROWTH))
