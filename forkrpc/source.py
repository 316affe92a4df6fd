"""The items of a map, as they are taken from what the user gave.

An item is taken in two steps: `peek` has it, `taken` lets go of it by one call into C.
So an interrupt between the two loses nothing.
"""

from functools import partial
from itertools import islice
from operator import length_hint

from .gate import is_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    Step = Callable[[], object]


class Source:
    """Takes from an iterator.

    starred: each item is a tuple of arguments, or an iterable of them.
    still: its items stand still: nothing of the user's runs between two of them.
    ended: there are no more but those that were peeked at.  error: why, if it was an
    exception.
    length: how many items there are, None if that is not known.
    """

    still = False

    def __init__(
        self, iterator: "Iterator[Any]", length: "int | None", *, starred: bool
    ) -> None:
        self.starred = starred
        self.length = length
        self.ended = False
        self.error: BaseException | None = None
        self._iterator = iterator
        self._held: list[Any] = []

    def peek(self, count: int) -> "Sequence[Any]":
        """Return the next *count* items, or what is left.  Raise an interrupt only."""
        held = self._held
        missing = count - len(held)
        if missing > 0 and not self.ended:
            try:
                held.extend(islice(self._iterator, missing))
            except BaseException as error:  # the user's code, which may raise anything
                if is_interrupt(error):
                    raise
                self.error = error
            self.ended = len(held) < count
        return held[:count]

    def taken(self, count: int) -> "Step":
        """Return a step that drops the first *count* items."""
        return partial(self._held.__delitem__, slice(count))

    def end(self, error: "BaseException | None" = None) -> None:
        """Take no more; *error*: since that item cannot be sent."""
        self.error = error
        self.ended = True
        self._held.clear()
        self._iterator = iter(())


class Sequenced(Source):
    """Takes from a list, tuple or range, as their iterators do."""

    still = True

    def __init__(self, sequence: "Sequence[Any]", *, starred: bool) -> None:
        super().__init__(iter(()), len(sequence), starred=starred)
        self._sequence = sequence
        self._at = 0

    def peek(self, count: int) -> "Sequence[Any]":
        if self.ended:  # a list that has grown since stays at its end
            return ()
        found = self._sequence[self._at : self._at + count]
        self.ended = not found
        return found

    def taken(self, count: int) -> "Step":
        return partial(setattr, self, "_at", self._at + count)

    def end(self, error: "BaseException | None" = None) -> None:
        super().end(error)
        self._sequence = ()


def source_of(iterables: "tuple[Iterable[Any], ...]", *, starred: bool) -> Source:
    """Return where a map takes its items from.  Raise TypeError for no iterable.

    starred: the only iterable is one of arguments.
    """
    if not iterables:
        raise TypeError("map() needs at least one iterable, of the arguments")
    if len(iterables) == 1:
        (given,) = iterables
        if type(given) in (list, tuple, range):
            return Sequenced(given, starred=starred)  # type: ignore[arg-type]
        iterator = iter(given)
    else:
        iterator, starred = zip(*iterables, strict=False), True
    return Source(iterator, _length_of(iterables), starred=starred)


def _length_of(iterables: "tuple[Iterable[Any], ...]") -> "int | None":
    lengths = [length_hint(each, -1) for each in iterables]
    known = [length for length in lengths if length >= 0]
    return min(known) if known else None
