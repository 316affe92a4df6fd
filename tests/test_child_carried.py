"""Unit: context variables that are set for the time of a call."""

import asyncio
import contextvars

import pytest

from forkrpc.child.carried import Carried

FIRST = contextvars.ContextVar("FIRST", default="default")
SECOND = contextvars.ContextVar("SECOND")
NAMES = [f"{__name__}:FIRST", f"{__name__}.SECOND"]


def look(*args, **kwargs):
    if "raises" in args:
        raise ValueError("of the call")
    return args, kwargs, FIRST.get(), SECOND.get("unset")


@pytest.fixture
def call():
    return Carried(NAMES).wrapped(look)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((1, 2, None), (1, 2)),
        ((1, None, "10"), (1, "unset")),
        ((None, 2, b"01"), ("default", 2)),
        ((None, None, None), (None, None)),
        ((None, None, "00"), ("default", "unset")),
    ],
)
def test_the_function_sees_what_travelled_and_nobody_after_it(call, values, found):
    assert call("a", *values, key="k") == (("a",), {"key": "k"}, *found)
    assert (FIRST.get(), SECOND.get("unset")) == ("default", "unset")


def test_a_call_that_raises_leaves_nothing_behind(call):
    with pytest.raises(ValueError, match="of the call"):
        call("raises", 1, 2, None)

    assert (FIRST.get(), SECOND.get("unset")) == ("default", "unset")


def test_what_the_function_itself_sets_is_undone():
    def change():
        FIRST.set("changed")

    Carried(NAMES).wrapped(change)(1, 2, None)

    assert FIRST.get() == "default"


def test_a_name_that_the_worker_does_not_have_is_an_error():
    with pytest.raises(AttributeError, match="THIRD"):
        Carried([f"{__name__}:THIRD"])


async def look_async(*args):
    await asyncio.sleep(0)
    return args, FIRST.get(), SECOND.get("unset")


def test_tasks_that_overlap_have_each_their_own():
    call = Carried(NAMES).wrapped(look_async)

    async def main():
        tasks = [asyncio.ensure_future(call(n, n, -n, None)) for n in range(3)]
        return [await task for task in tasks], FIRST.get()

    found, outside = asyncio.run(main())

    assert found == [((n,), n, -n) for n in range(3)]
    assert outside == "default"
