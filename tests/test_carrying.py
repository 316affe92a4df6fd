"""End-to-end: values of context variables travel with each call."""

import asyncio
import concurrent.futures
import contextvars

import pytest

from forkrpc import Forker, SerialiserError, SetupError
from forkrpc.carrying import CarryingArguments

TRACE = contextvars.ContextVar("TRACE", default="none")
USER = contextvars.ContextVar("USER")


def look(*args, **kwargs):
    return [*args], kwargs, TRACE.get(), USER.get("unset")


def join(*parts):
    return b" ".join([*parts, str(TRACE.get()).encode()])


@pytest.fixture(scope="module")
def original():
    with Forker().require(__name__, "asyncio").ready() as template:
        yield template


@pytest.fixture
def template(original):
    with original.fork() as template:
        yield template


def in_context(trace, function, *args, **kwargs):
    context = contextvars.copy_context()
    context.run(TRACE.set, trace)
    return context.run(function, *args, **kwargs)


@pytest.mark.parametrize(
    "name", ["pickle", "json", "data", "portable-pickle", "cbor", "msgpack"]
)
def test_each_call_has_the_values_of_its_caller(template, name):
    if name in ("cbor", "msgpack"):
        pytest.importorskip({"cbor": "cbor2", "msgpack": "msgspec"}[name])
    with template.run(look, context=[TRACE, USER], serialiser=name) as proxy:
        futures = [in_context(f"t{n}", proxy.submit, n) for n in range(20)]
        keywords = in_context("k", proxy.call, 1, key=2)
        outside = proxy.call()

    found = [future.result() for future in futures]
    assert found == [[[n], {}, f"t{n}", "unset"] for n in range(20)] or found == [
        ([n], {}, f"t{n}", "unset") for n in range(20)
    ]
    assert list(keywords) == [[1], {"key": 2}, "k", "unset"]
    assert list(outside) == [[], {}, "none", "unset"]


def test_byte_strings_travel_with_the_serialiser_for_those(template):
    with template.run(join, context=TRACE, serialiser="bytes") as proxy:
        assert in_context(b"t", proxy.call, b"a", b"b") == b"a b b't'"
        assert proxy.call(b"a") == b"a none"
        with pytest.raises(SerialiserError, match="context variable .*:TRACE"):
            in_context("text", proxy.call, b"a")


def test_callbacks_and_threads_carry_their_own_values(template):
    results = []
    with template.run(look, context="test_carrying:TRACE") as proxy:
        in_context("callback", proxy, 1, results.append)
        with concurrent.futures.ThreadPoolExecutor() as threads:
            list(threads.map(lambda n: in_context(n, proxy, n, results.append), "ab"))

    assert sorted(each[2] for each in results) == ["a", "b", "callback"]


def test_a_value_that_cannot_be_sent_fails_its_call_at_once_and_is_named(template):
    with template.run(look, context=[USER, TRACE]) as proxy:
        with pytest.raises(SerialiserError, match="context variable .*:TRACE"):
            in_context((each for each in ()), proxy.submit, 1)
        with pytest.raises(SerialiserError, match=r"value\[0\]"):
            proxy.submit(each for each in ())
        assert proxy.call(5) == ([5], {}, "none", "unset")


def test_a_worker_that_does_not_have_the_variable_fails_its_calls(
    template, monkeypatch
):
    import importlib

    from forkrpc import context

    alone = contextvars.ContextVar("alone")
    monkeypatch.setattr(importlib, "alone", alone, raising=False)
    assert context.name_of(alone) == "importlib:alone"

    with template.run("os.getpid", context=[alone]) as proxy:
        error = proxy.submit().exception(10)

    assert type(error) is SetupError
    assert "'importlib:alone'" in str(error)


def test_a_variable_of_the_templates_main_is_named(template):
    template.eval(
        "import contextvars\nx = contextvars.ContextVar('x')\ndef get(): return x.get()"
    )
    import __main__

    x = contextvars.ContextVar("x")
    __main__.x = x
    try:
        x.set(7)
        with template.run("get", context="__main__:x") as proxy:
            assert proxy.call() == 7
    finally:
        del __main__.x


def test_without_the_option_nothing_is_carried(template):
    with template.run(look) as proxy:
        assert not isinstance(proxy._connection.arguments, CarryingArguments)
        assert in_context("t", proxy.call, 1) == ([1], {}, "none", "unset")


# The asyncio backend, streams, views.


async def look_later(*args, **kwargs):
    await asyncio.sleep(0)
    return look(*args, **kwargs)


def look_and_answer(done, *args):
    done(look(*args))


def look_twice(*args):
    yield look(*args)
    yield look(*args)


async def look_twice_later(*args):
    yield look(*args)
    await asyncio.sleep(0)
    yield look(*args)


@pytest.mark.parametrize("function", [look_later, look_and_answer])
def test_calls_of_an_asyncio_worker_have_the_values_of_their_callers(
    template, function
):
    with template.run(function, context=[TRACE], backend="async") as proxy:
        futures = [in_context(f"t{n}", proxy.submit, n) for n in range(20)]
        outside = proxy.call(1)

    assert [future.result()[2] for future in futures] == [f"t{n}" for n in range(20)]
    assert outside == ([1], {}, "none", "unset")


@pytest.mark.parametrize(
    ("backend", "function"),
    [("sync", look_twice), ("async", look_twice), ("async", look_twice_later)],
)
def test_each_step_of_a_generator_has_the_values_of_its_caller(
    template, backend, function
):
    with template.run(function, context=[TRACE], backend=backend) as proxy:
        one = in_context("one", proxy.stream, 1)
        two = in_context("two", proxy.with_options(timeout=10).stream, 2)
        assert [each[2] for each in one] == ["one", "one"]
        assert [(each[0], each[2]) for each in two] == [([2], "two")] * 2


def test_calls_of_a_view_carry_values(template):
    with template.run(look, context=[TRACE]) as proxy:
        view = proxy.with_options(timeout=10)
        assert in_context("call", view.call, 1)[2] == "call"
        assert in_context("submit", view.submit, 1, key=1).result()[2] == "submit"


def test_a_scalar_carries_values_by_every_verb(template):
    results = []
    with template.run(look, context=[TRACE]) as proxy:
        in_context("callback", proxy, 1, results.append)
        assert in_context("call", proxy.call, 1)[2] == "call"

        async def main():
            TRACE.set("acall")
            return await proxy.acall(1)

        assert asyncio.run(main())[2] == "acall"
    assert results[0][2] == "callback"
