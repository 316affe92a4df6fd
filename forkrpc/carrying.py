"""A connection whose calls carry more than their arguments.

That is values of context variables, and in a notebook the cell they were made in.  All
other workers have a plain Connection, which knows nothing of it.
"""

from . import context
from .connection import Connection
from .errors import SerialiserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .cells import Cells
    from .context import Variable


class CarryingConnection(Connection):
    """Carries *variables* and *cells* with each call; either may be missing."""

    _cells: "Cells | None" = None
    _variables: "dict[str, Variable] | None" = None
    _octets = False

    def carry(
        self, variables: "dict[str, Variable]", cells: "Cells | None", *, octets: bool
    ) -> None:
        """octets: the serialiser takes byte strings only."""
        self._variables = variables
        self._cells = cells
        self._octets = octets

    def submit(self, entry: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> None:
        if self._cells is not None:
            self._cells.note_call()
        if not self._variables:
            super().submit(entry, kwargs)
            return
        values = context.values(self._variables, octets=self._octets)
        try:
            super().submit((*entry[:-1], *values, entry[-1]), kwargs)
        except SerialiserError:
            self._check(values)
            raise

    def _check(self, values: "tuple[Any, ...]") -> None:
        """Raise SerialiserError that names the variable which cannot be sent."""
        assert self._variables is not None
        for name, value in zip(self._variables, values, strict=False):
            try:
                self.session.codec.dump((value,))
            except SerialiserError as error:
                raise SerialiserError(f"context variable {name}: {error}") from error
