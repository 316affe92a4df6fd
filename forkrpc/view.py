"""A view of a proxy: the same worker and verbs, with other settings for each call."""

from math import inf

from .future import CallFuture
from .limits import LimitedCallback
from .loading import result_of
from .loops import LoopCall
from .options import checked_timeout, nearest
from .proxy import Proxy, callback_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

    from .connection import Connection

SETTINGS = ("timeout", "retries")


class View(Proxy):
    """Made by `Proxy.with_options`; as the proxy, but for the settings of its calls.

    The connection closes when the proxy and all its views are gone, or by `close` of
    any of them.
    """

    def __init__(
        self, proxy: Proxy, connection: "Connection", settings: "dict[str, Any]"
    ) -> None:
        super().__init__(connection)
        self._proxy = proxy  # as long as there is a view, it is not dropped
        self._settings = settings
        if "timeout" in settings:
            timeout = settings["timeout"]
            self._limit = inf if timeout is None else timeout

    def with_options(self, **options: "Any") -> Proxy:
        """Return another view, with these settings in place of or beside its own."""
        settings = {**self._settings, **checked(options)}
        return View(self._proxy, self._connection, settings)

    def __call__(self, /, *args: "Any", **kwargs: "Any") -> None:
        if self._limit is None:
            super().__call__(*args, **kwargs)
            return
        target = LimitedCallback(callback_of(args), self._limit)
        self._connection.submit_for(args[:-1], kwargs, target, self._limit)

    def submit(self, /, *args: "Any", **kwargs: "Any") -> "Future[Any]":
        connection = self._connection
        future = CallFuture(connection.program, connection.cancel)
        future.limit = self._limit
        error = connection.death_error()
        if error is not None:
            future.set_exception(error)
        else:
            connection.submit_for(args, kwargs, future, self._limit)
        return future

    def call(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        if self._limit is None:
            return super().call(*args, **kwargs)
        return self._connection.call_within(args, kwargs, self._limit)

    async def acall(self, /, *args: "Any", **kwargs: "Any") -> "Any":
        connection = self._connection
        home = connection.home("acall()")
        call = LoopCall(home, connection)
        call.limit = self._limit
        connection.submit_for(args, kwargs, call, self._limit)
        home.began(call)
        return result_of(await call.outcome())

    def __del__(self) -> None:
        """Its proxy goes with it, and closes the connection if that was the last."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name} {each}" for name, each in self._settings.items())
        return f"<View of {super().__repr__()[1:-1]}; {settings}>"


def checked(options: "dict[str, Any]") -> "dict[str, Any]":
    """Return the settings of a view.  Raise TypeError or ValueError."""
    for name in options:
        if name not in SETTINGS:
            raise TypeError(
                f"with_options() has no option {name!r}{nearest(name, SETTINGS)}"
            )
    if "retries" in options:
        raise TypeError(
            "with_options(retries=...) needs a pool: a call whose worker died has no "
            "other worker to go to; call again, or start another worker with run()"
        )
    if "timeout" in options:
        checked_timeout(options["timeout"])
    return options
