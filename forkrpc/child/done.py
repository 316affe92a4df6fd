"""The `done` that plain functions of an asynchronous worker are called with."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Done:
    """Answers one call: `done(result)`, once, now or later, from any thread.

    finish: is given the result.  dropped: is called, in any thread and between any two
    bytecodes, if this goes away without having been called.
    """

    __slots__ = ("_dropped", "_finish", "_name", "_once")

    def __init__(
        self,
        name: str,
        finish: "Callable[[object], None]",
        dropped: "Callable[[], None]",
    ) -> None:
        self._name = name
        self._finish = finish
        self._dropped = dropped
        self._once = [True]  # emptied by one call into C, so by one thread

    def __call__(self, result: object = None) -> None:
        try:
            self._once.pop()
        except IndexError:
            raise RuntimeError(
                f"done() of {self._name} was called before: a call has one result"
            ) from None
        self._finish(result)

    def __del__(self) -> None:
        if self._once:
            self._dropped()

    def __repr__(self) -> str:
        state = "not called" if self._once else "called"
        return f"<done of {self._name}, {state}>"
