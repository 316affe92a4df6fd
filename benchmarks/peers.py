"""One adapter a peer, all with the same verbs: start a worker, call, send, close.

The loops stand in the adapters, in the form natural to each library, so that nothing
but the library's own work is timed.  Libraries are imported when a peer is started:
a missing one costs its own line in the table only, and no peer carries another's
modules.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from benchmarks import raw, work

Callback = Callable[[Any], Any]
PRELOADED = "benchmarks.work"


class Peer(Protocol):
    """One worker that executes one function of ``benchmarks.work``."""

    def call(self, value: Any) -> Any:
        """Call the function and wait for the result."""

    def close(self) -> None:
        """End the worker, wait for it."""


class SendingPeer(Peer, Protocol):
    """A peer that also takes calls without waiting for their results."""

    def send(self, values: Iterable[Any], callback: Callback) -> None:
        """Call the function for each of *values*; ``callback(result)`` for each."""


class KeywordPeer(SendingPeer, Protocol):
    """A peer whose functions take keyword arguments."""

    def send_keywords(
        self, calls: Iterable[Mapping[str, Any]], callback: Callback
    ) -> None:
        """Call the function with each of these keyword arguments."""


class ForkrpcPeer:
    """A worker forked from a template that has imported ``benchmarks.work``."""

    def __init__(self, function: str, *preloaded: str, backend: str = "sync") -> None:
        from forkrpc import Forker

        self.template = Forker().require(PRELOADED, *preloaded)
        self.proxy = self.template.run(f"{PRELOADED}.{function}", backend=backend)
        self.call = self.proxy.call

    def send(self, values: Iterable[Any], callback: Callback) -> None:
        proxy = self.proxy
        for value in values:
            proxy(value, callback)

    def send_keywords(
        self, calls: Iterable[Mapping[str, Any]], callback: Callback
    ) -> None:
        proxy = self.proxy
        for keywords in calls:
            proxy(callback, **keywords)

    def close(self) -> None:
        self.proxy.close()
        self.proxy.join(10)
        self.template.close()


class PoolPeer:
    """``multiprocessing.Pool`` of one, or another library's with that interface."""

    def __init__(self, function: str, context: Any) -> None:
        self._function = getattr(work, function)
        self._pool = context.Pool(1)

    def call(self, value: Any) -> Any:
        return self._pool.apply_async(self._function, (value,)).get()

    def send(self, values: Iterable[Any], callback: Callback) -> None:
        apply_async, function = self._pool.apply_async, self._function
        for value in values:
            apply_async(function, (value,), callback=callback)

    def send_keywords(
        self, calls: Iterable[Mapping[str, Any]], callback: Callback
    ) -> None:
        apply_async, function = self._pool.apply_async, self._function
        for keywords in calls:
            apply_async(function, (), keywords, callback=callback)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class FuturesPeer:
    """An executor of one worker whose calls are futures."""

    def __init__(self, function: str, executor: Any) -> None:
        self._function = getattr(work, function)
        self._executor = executor
        self._submit = executor.submit

    def call(self, value: Any) -> Any:
        return self._submit(self._function, value).result()

    def send(self, values: Iterable[Any], callback: Callback) -> None:
        submit, function = self._submit, self._function

        def settled(future: Any) -> None:
            callback(future.result())

        for value in values:
            submit(function, value).add_done_callback(settled)

    def close(self) -> None:
        self._executor.shutdown()


class PebblePeer:
    """``pebble.ProcessPool`` of one worker."""

    def __init__(self, function: str) -> None:
        from pebble import ProcessPool

        self._function = getattr(work, function)
        self._pool = ProcessPool(1, context=multiprocessing.get_context("fork"))

    def call(self, value: Any) -> Any:
        return self._pool.schedule(self._function, args=[value]).result()

    def send(self, values: Iterable[Any], callback: Callback) -> None:
        schedule, function = self._pool.schedule, self._function

        def settled(future: Any) -> None:
            callback(future.result())

        for value in values:
            schedule(function, args=[value]).add_done_callback(settled)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


def execnet_worker(channel, module, function):  # type: ignore[no-untyped-def]
    """Answer each item of *channel*.  Sent by execnet as source: stands alone."""
    import importlib

    execute = getattr(importlib.import_module(module), function)
    for value in channel:
        channel.send(execute(value))


class ExecnetPeer:
    """A gateway to a fresh interpreter, with one channel to a loop there."""

    def __init__(self, function: str) -> None:
        import execnet

        self._group = execnet.Group()
        gateway = self._group.makegateway(f"popen//python={sys.executable}")
        self._channel = gateway.remote_exec(
            execnet_worker, module=PRELOADED, function=function
        )
        self._callbacks: deque[Callback] | None = None

    def call(self, value: Any) -> Any:
        self._channel.send(value)
        return self._channel.receive()

    def send(self, values: Iterable[Any], callback: Callback) -> None:
        if self._callbacks is None:
            # From here on the channel takes no more ``call``: it has one receiver.
            self._callbacks = deque()
            self._channel.setcallback(self._answered)
        send, expect = self._channel.send, self._callbacks.append
        for value in values:
            expect(callback)
            send(value)

    def _answered(self, result: Any) -> None:
        assert self._callbacks is not None
        self._callbacks.popleft()(result)

    def close(self) -> None:
        self._group.terminate(timeout=5)


def start_pool_fork(function: str) -> PoolPeer:
    return PoolPeer(function, multiprocessing.get_context("fork"))


def start_pool_forkserver(function: str) -> PoolPeer:
    return PoolPeer(function, multiprocessing.get_context("forkserver"))


def bare_forkserver_context() -> Any:
    """Return the forkserver at its best: all preloaded, no ``__main__`` to import.

    Its children import the program's main module again, each of them, unless the
    program has none, as at a prompt.
    """
    main = sys.modules["__main__"]
    main.__spec__ = None
    main.__dict__.pop("__file__", None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


def start_billiard(function: str) -> PoolPeer:
    import billiard

    return PoolPeer(function, billiard.get_context("fork"))


def start_futures(function: str) -> FuturesPeer:
    from concurrent.futures import ProcessPoolExecutor

    fork = multiprocessing.get_context("fork")
    return FuturesPeer(function, ProcessPoolExecutor(1, mp_context=fork))


def start_loky(function: str) -> FuturesPeer:
    import loky

    return FuturesPeer(function, loky.ProcessPoolExecutor(1))


def start_raw_blocking(function: str) -> raw.RawPeer:
    return raw.RawPeer(getattr(work, function), raw.receive_blocking)


def start_raw_spinning(function: str) -> raw.RawPeer:
    return raw.RawPeer(getattr(work, function), raw.receive_spinning)


STARTERS: dict[str, Callable[[str], Any]] = {
    "forkrpc": ForkrpcPeer,
    "forkrpc_sync": ForkrpcPeer,
    "pool_fork": start_pool_fork,
    "pool_forkserver": start_pool_forkserver,
    "futures": start_futures,
    "execnet": ExecnetPeer,
    "loky": start_loky,
    "pebble": PebblePeer,
    "billiard": start_billiard,
    "raw_blocking": start_raw_blocking,
    "raw_spinning": start_raw_spinning,
}


def start(kind: str, function: str) -> Any:
    """Return a ``Peer`` that executes this function of ``benchmarks.work``."""
    return STARTERS[kind](function)


class Kind(NamedTuple):
    """What the table needs to know about a peer."""

    label: str
    library: str  # module that must be installed
    limit: bool = False  # no library, but what the machine allows


KINDS = {
    "forkrpc": Kind("forkrpc", "forkrpc"),
    "forkrpc_sync": Kind("forkrpc, sync backend", "forkrpc"),
    "pool_fork": Kind("Pool fork", "multiprocessing"),
    "pool_forkserver": Kind("Pool forkserver", "multiprocessing"),
    "pool_forkserver_bare": Kind("Pool forkserver, empty __main__", "multiprocessing"),
    "process_fork": Kind("Process fork and a Pipe", "multiprocessing"),
    "futures": Kind("ProcessPoolExecutor fork", "concurrent.futures"),
    "execnet": Kind("execnet", "execnet"),
    "loky": Kind("loky", "loky"),
    "pebble": Kind("pebble", "pebble"),
    "billiard": Kind("billiard", "billiard"),
    "raw_blocking": Kind("raw socketpair, blocking", "socket", limit=True),
    "raw_spinning": Kind("raw socketpair, spinning", "socket", limit=True),
    "raw_sock_recv": Kind("raw socketpair, sock_recv", "asyncio", limit=True),
    "raw_protocol": Kind("raw socketpair, protocol", "asyncio", limit=True),
}
