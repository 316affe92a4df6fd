"""Round trips in an asyncio program: one call is awaited after the other.

The raw peers are what asyncio itself allows on a socket pair, with the worker of
``raw``: the loop's own ``sock_recv``, and a transport with a protocol.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pickle import HIGHEST_PROTOCOL, dumps, loads
from time import perf_counter, perf_counter_ns
from typing import Any

from benchmarks import raw, work
from benchmarks.measure import percentile
from benchmarks.peers import ForkrpcPeer, start_futures
from benchmarks.scale import Scale

Call = Callable[[Any], Awaitable[Any]]


async def times_ns(call: Call, seconds: float) -> list[int]:
    """As ``measure.latencies_us``, in a loop."""
    if await call(7) != 7:
        raise ValueError("the peer answers wrongly")
    warm = perf_counter() + seconds / 5
    while perf_counter() < warm:
        await call(7)
    clock = perf_counter_ns
    times = []
    end = clock() + int(seconds * 1e9)
    stop = 0
    while stop < end:
        start = clock()
        await call(7)
        stop = clock()
        times.append(stop - start)
    return times


async def forkrpc(seconds: float) -> list[int]:
    peer = ForkrpcPeer("echo")
    async with peer.proxy:
        times = await times_ns(peer.proxy.acall, seconds)
    peer.template.close()
    return times


async def futures(seconds: float) -> list[int]:
    peer = start_futures("echo")
    submit = peer._submit

    async def call(value: Any) -> Any:
        return await asyncio.wrap_future(submit(work.echo, value))

    times = await times_ns(call, seconds)
    peer.close()
    return times


def raw_worker() -> tuple[socket.socket, int]:
    """Return a socket to a process that echoes what ``raw`` writes, and its pid."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            raw.serve(theirs, work.echo, raw.receive_blocking)
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    return ours, pid


def framed(value: Any) -> bytes:
    body = dumps(value, HIGHEST_PROTOCOL)
    return raw.LENGTH.pack(len(body)) + body


async def raw_sock_recv(seconds: float) -> list[int]:
    sock, pid = raw_worker()
    loop = asyncio.get_running_loop()

    async def call(value: Any) -> Any:
        await loop.sock_sendall(sock, framed(value))
        data = await loop.sock_recv(sock, raw.READ_BYTES)
        return loads(memoryview(data)[raw.LENGTH.size :])

    times = await times_ns(call, seconds)
    sock.close()
    os.waitpid(pid, 0)
    return times


class Echo(asyncio.Protocol):
    """Sets ``answer``, a future, to what has come."""

    answer: asyncio.Future[Any]

    def data_received(self, data: bytes) -> None:
        self.answer.set_result(loads(memoryview(data)[raw.LENGTH.size :]))


async def raw_protocol(seconds: float) -> list[int]:
    sock, pid = raw_worker()
    loop = asyncio.get_running_loop()
    transport, echo = await loop.create_connection(Echo, sock=sock)

    async def call(value: Any) -> Any:
        echo.answer = loop.create_future()
        transport.write(framed(value))
        return await echo.answer

    times = await times_ns(call, seconds)
    transport.close()
    await asyncio.sleep(0)
    os.waitpid(pid, 0)
    return times


def acall(kind: str, scale: Scale) -> dict[str, float]:
    """Return median and 99th percentile of an awaited call that echoes an integer."""
    measure = {
        "forkrpc": forkrpc,
        "futures": futures,
        "raw_sock_recv": raw_sock_recv,
        "raw_protocol": raw_protocol,
    }[kind]
    times_us = [time / 1e3 for time in asyncio.run(measure(scale.seconds))]
    return {
        "p50_us": percentile(times_us, 0.5),
        "p99_us": percentile(times_us, 0.99),
        "calls": len(times_us),
    }
