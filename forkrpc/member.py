"""One worker of a pool: a connection whose calls come from the pool's queue."""

from signal import SIGKILL

from .carrying import CarryingArguments
from .connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .arguments import Arguments
    from .cells import Cells
    from .death import Death
    from .lending import Lending, LendingOverlapping
    from .scheduling import Place

    class Crew(Protocol):
        def heard(self, member: "Member") -> None: ...

        def leaves(self, member: "Member") -> None: ...

        def gone(self, member: "Member", death: Death, lost: int) -> None: ...

        def take_back(self, calls: list[Any]) -> None: ...

        def again(self, target: Any, death: Death, call_id: int) -> Any: ...


class Member(Connection):
    """The connection to one worker of *crew*.

    place: what the scheduler knows of it.
    """

    session: "Lending | LendingOverlapping"

    def __init__(self, crew: "Crew", place: "Place", *args: "Any") -> None:
        self.place = place
        self._crew = crew
        self._unwanted = False
        self.told = 0  # definitions of classes that it was sent
        self.cells: Cells | None = None  # in a notebook
        super().__init__(*args)
        self.session.take_back = crew.take_back
        self.session.again = crew.again

    @property
    def pid(self) -> "int | None":
        """Its process id, once the worker itself or the template has told it."""
        return self.session.pid or self.life.pid

    def give(self, arguments: "Arguments") -> None:
        """Its calls come from the crew, with all that they carry."""
        if isinstance(arguments, CarryingArguments):
            self.cells = arguments.cells  # type: ignore[assignment]

    def has_limits(self) -> None:
        """Some of its calls have a limit of their own."""
        self.limited = True

    def exchange(self, call: object, queue: "Any") -> object:
        """Make a call that this worker is to have; return its outcome."""
        return self._channel.exchange(call, queue)

    def check_nested(self) -> None:
        """Raise RuntimeError where the thread that reads was interrupted to wait."""
        self._channel.check_nested()

    def flush(self) -> None:
        """Send what it was given.  Any thread."""
        self.look_after_calls()
        self._channel.flush()

    def was_asked(self, lost: int) -> bool:
        """Return whether it has ended as it was asked to, and lost no call."""
        if self._unwanted:
            return not lost
        in_order = self._closing and not lost and not self.life.returncode
        return in_order or self._killed

    def tick(self) -> bool:
        if not self.session.pending:
            self.session.forget()
        return super().tick()

    def on_read(self) -> None:
        self._crew.heard(self)
        super().on_read()

    def close(self, why: str = "", *, for_good: bool = False) -> None:
        self._crew.leaves(self)
        super().close(why or "the pool needs it no more", for_good=for_good)

    def _on_end(self) -> None:
        self._crew.leaves(self)  # first: it is given nothing any more
        super()._on_end()

    def _tell_end(self, lost: int) -> None:
        self._crew.gone(self, self.life.death(self.session.setup_failure), lost)

    def end_quietly(self) -> None:
        """End it for a call that nobody wants; others may be lost, which is told."""
        self._unwanted = True
        self.life.kill(SIGKILL)

    def kill_quietly(self, number: int) -> None:
        """End it as the user asked: nobody is to be told."""
        self._killed = True
        self.life.kill(number)

    def tell_error(self, error: Exception) -> None:
        """Have `on_error` called, behind what is ready."""
        self.session.call_soon(self.session.on_error, error)

    # Its crew does these, at the end of the program.

    def close_at_exit(self) -> None:
        pass

    def outstanding(self) -> int:
        return 0

    def wait_for_end(self, timeout: float) -> bool:
        return True
