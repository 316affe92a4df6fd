"""The blocking backend of a process that executes one call (`keeper`)."""

from .. import wire
from .sync import Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .keeper import Turn


class Isolated(Sync):
    """As Sync, for one call."""

    _mine: "Turn | None" = None
    _tells = False

    def isolate(self, turn: "Turn", *, tells: bool) -> None:
        """Execute one call only; write nothing before `serve`.

        tells: says READY when its turn comes, not only the first one.
        """
        self._mine, self._tells = turn, tells
        self.replies.follow(turn.number - 1)
        if turn.number > 1:
            self.inbox.expect_no_greeting()

    def is_over(self) -> bool:
        """Return whether another process is to go on: this one has answered."""
        # It may have read more: what concerns its stream, and CLOSE.
        told = [frame.kind for frame in self.inbox.frames]
        return self._answered() and wire.CLOSE not in told

    def _answered(self) -> bool:
        return self._mine is not None and self.replies.done() >= self._mine.number

    def fail_setup(self, text: str) -> None:
        self.replies.release()
        super().fail_setup(text)

    def mute(self) -> None:
        """Write nothing any more."""
        self.replies.mute()

    def _begin(self) -> None:
        turn, replies = self._mine, self.replies
        assert turn is not None  # the keeper itself does not serve
        replies.release()
        if self._tells or turn.number == 1:
            replies.begin(turn.keeper, wire.ONE if self._tells else 0)
        else:
            replies.flush()

    def _obey(self, frame: "wire.Frame") -> None:
        super()._obey(frame)
        self._end_behind()

    def _alone(self, header: "wire.Header") -> bool:
        alone = super()._alone(header)
        self._end_behind()
        return alone

    def _end_behind(self) -> None:
        if self._ended is None and self._answered():
            self._ended = 0
