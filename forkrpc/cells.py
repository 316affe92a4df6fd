"""Remembers in which cell of a notebook each call was made.

The kernel finds the cell to which output belongs by context variables; the thread that
runs callbacks has none of them.  So the context of the first call of each cell is kept.
"""

import sys
from collections import deque
from contextvars import Context, copy_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session


def in_notebook() -> bool:
    """Whether this program is a kernel of Jupyter."""
    return "ipykernel" in sys.modules


class Cells:
    """The cells from which a worker was called, and whose calls may still print."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._marks: deque[tuple[int, Context]] = deque()  # of the first call of each
        self._header: object = self  # the newest cell's

    def note_call(self) -> None:
        """Note the present cell; before a call is queued, or the worker is started."""
        header = getattr(sys.stdout, "parent_header", None)
        if header is not self._header:
            self.note(header, copy_context())

    def note(self, header: object, context: Context) -> None:
        """Note the cell of the calls to come, unless they are of the same one."""
        if header is not self._header:
            session = self._session
            queued = session.outstanding() - len(session.pending)
            self._marks.append((session.sent + queued + 1, context))
            self._header = header

    def context_of(self, call_id: int) -> "Context | None":
        """Return the context in which a call was made; 0: that of the oldest."""
        marks = self._marks
        head = self._session.head() or call_id
        while len(marks) > 1 and marks[1][0] <= min(head, call_id):
            marks.popleft()
        found = None
        for first, context in marks:
            if found is not None and first > call_id:
                break
            found = context
        return None if found is None else found.copy()


class NewestCell:
    """The cell from which a pool was called last.

    A worker learns of it when it gets calls.  Those of an earlier cell that still
    waited then count as this one's.
    """

    def __init__(self) -> None:
        self._header: object = self
        self._context: Context | None = None

    def note_call(self) -> None:
        """Note the present cell; before a call is queued, or the pool is made."""
        header = getattr(sys.stdout, "parent_header", None)
        if header is not self._header:
            self._header, self._context = header, copy_context()

    def tell(self, cells: Cells) -> None:
        """Note the cell for the calls that a worker is about to get."""
        if self._context is not None:
            cells.note(self._header, self._context)
