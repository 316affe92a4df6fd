"""Calls that carry more than their arguments.

That is values of context variables, and in a notebook the cell they were made in.  All
other workers have plain Arguments, which know nothing of it.
"""

from functools import partial

from . import context
from .arguments import Arguments
from .errors import SerialiserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .cells import Cells, NewestCell
    from .context import Variable
    from .entries import Chunk, Streamed
    from .parts import Parts


class CarryingArguments(Arguments):
    """Carries *variables* and *cells* with each call; either may be missing."""

    cells: "Cells | NewestCell | None" = None
    _variables: "dict[str, Variable] | None" = None
    _octets = False

    def carry(
        self,
        variables: "dict[str, Variable]",
        cells: "Cells | NewestCell | None",
        *,
        octets: bool,
    ) -> None:
        """octets: the serialiser takes byte strings only."""
        self._variables = variables
        self.cells = cells
        self._octets = octets

    def waiting(self, args: "Any", kwargs: "Any", *, shared: bool = False) -> object:
        return self._with_values(super().waiting, args, kwargs)

    def limited(self, args: "Any", kwargs: "Any", limit: float) -> "bytes | Parts":
        return self._with_values(super().limited, args, kwargs, limit)  # type: ignore[no-any-return]

    def streamed(
        self, args: "Any", kwargs: "Any", limit: "float | None"
    ) -> "Streamed | Parts":
        return self._with_values(super().streamed, args, kwargs, limit)  # type: ignore[no-any-return]

    def chunked(self) -> bool:
        # Each of the calls carries the values.
        return not self._variables and super().chunked()

    def chunk(self, items: "Any", *, starred: bool) -> "Chunk | None":
        return self._with_values(partial(super().chunk, starred=starred), items)  # type: ignore[no-any-return]

    def chunk_of(self, bodies: "list[bytes]") -> "Chunk":
        return self._with_values(super().chunk_of, bodies)  # type: ignore[no-any-return]

    def _with_values(
        self, serialised: "Callable[..., Any]", args: "Any", *others: "Any"
    ) -> "Any":
        if self.cells is not None:
            self.cells.note_call()
        if not self._variables:
            return serialised(args, *others)
        values = context.values(self._variables, octets=self._octets)
        try:
            return serialised((*args, *values), *others)
        except SerialiserError:
            self._check(values)
            raise

    def _check(self, values: "tuple[Any, ...]") -> None:
        """Raise SerialiserError that names the variable which cannot be sent."""
        assert self._variables is not None
        for name, value in zip(self._variables, values, strict=False):
            try:
                self._session.codec.dump((value,))
            except SerialiserError as error:
                raise SerialiserError(f"context variable {name}: {error}") from error
