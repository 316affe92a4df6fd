"""The streams of a pool: each belongs to the worker that has its call."""

from .items import Items

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from .member import Member
    from .program import Program

    class Crew(Protocol):
        program: Program
        session: Any

        def hands(self) -> Iterable[Member]: ...


class Flows:
    """As `Flow`, for all workers of *crew*.

    inert: this is a forked copy of the program, where nothing is told.
    """

    def __init__(self, crew: "Any") -> None:
        self.inert = False
        self._crew: Crew = crew

    def credit(self, items: "Items", taken: int) -> None:
        if items.holder is not None:
            items.holder.flow.credit(items, taken)

    def stop_closed(self) -> None:
        for member in self._crew.hands():
            member.flow.stop_closed()

    def stop_later(self) -> None:
        if not self.inert:
            self._crew.program.reactor.soon(self.stop_closed)

    def wait(self, items: "Items") -> None:
        """Wait until *items* rings; it does when a worker has its call, too."""
        self._crew.program.check_may_wait("a stream")
        if items.holder is None:
            items.get()
        else:
            items.holder.flow.wait(items)

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError where nobody would read what is waited for."""
        self._crew.program.check_may_wait(verb)
        for member in self._crew.hands():
            member.flow.check_may_wait(verb)

    def close_those_of(self, *takers: object) -> None:
        for _, items in self.waiting():
            items.close_if_left_by(takers, "pool")
        for member in self._crew.hands():
            member.flow.close_those_of(*takers)

    def waiting(self) -> "list[tuple[Any, Items]]":
        """Return (call, items) of streams that no worker has."""
        found = list(self._crew.session.unsent)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(call, each) for call, each in pairs if isinstance(each, Items)]
