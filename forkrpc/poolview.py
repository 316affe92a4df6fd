"""A view of a pool: the same workers and verbs, with other settings for each call."""

from functools import partial

from .pool import Pool
from .proxy import Proxy, callback_of
from .retrying import Persistent, retrying
from .view import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .feed import Feed
    from .intake import Intake


class PoolView(View, Pool):
    """Made by `Pool.with_options`."""

    def __init__(
        self, proxy: Proxy, intake: "Intake", settings: "dict[str, Any]"
    ) -> None:
        self._intake = intake
        connection: Any = intake
        if "retries" in settings:
            connection = Persistent(intake, settings["retries"])
        super().__init__(proxy, connection, settings)

    def with_options(self, **options: "Any") -> Proxy:
        """Return another view, with these settings in place of or beside its own."""
        return view_of(self._proxy, self._intake, {**self._settings, **options})

    def __call__(self, /, *args: "Any", **kwargs: "Any") -> None:
        if "retries" in self._settings and self._limit is None:
            callback = callback_of(args)
            self._connection.submit(args[:-1], kwargs, callback)
        else:
            super().__call__(*args, **kwargs)

    def _feed(self) -> "Feed":
        crew: Any = self._intake
        wrapped = None
        if "retries" in self._settings:
            wrapped = partial(retrying, tries=self._settings["retries"])
        feed: Feed = crew.feed(limit=self._limit, wrapped=wrapped, handle=self)
        return feed

    async def acall(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        await self._intake.await_room_in_loop("acall()")
        return await View.acall(self, *args, **kwargs)


def view_of(pool: Proxy, intake: "Intake", options: "dict[str, Any]") -> PoolView:
    """Return a view; raise TypeError or ValueError for a bad option."""
    from .sizing import check_count
    from .view import checked

    if "retries" in options:
        check_count("retries", options["retries"], 0)
    others = {name: each for name, each in options.items() if name != "retries"}
    checked(others)
    return PoolView(pool, intake, options)
