"""Unit: leaving a `with` closes, however it is left."""

import asyncio

import pytest

from forkrpc.closing import AsyncClosing, Closing


class Thing(Closing, AsyncClosing):
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 10


def test_with_closes():
    with Thing() as thing:
        assert thing.closed == 0
    assert thing.closed == 1


def test_an_exception_goes_on():
    thing = Thing()
    with pytest.raises(KeyError), thing:
        raise KeyError
    assert thing.closed == 1


def test_async_with_closes():
    async def main():
        async with Thing() as thing:
            assert thing.closed == 0
        return thing

    assert asyncio.run(main()).closed == 10


def test_who_has_no_close_is_told():
    with pytest.raises(NotImplementedError):
        Closing().close()
    with pytest.raises(NotImplementedError):
        asyncio.run(AsyncClosing().aclose())
