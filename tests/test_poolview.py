"""End-to-end: a pool with other settings for its calls (also: see test_pool)."""

import asyncio
import time

import pytest

from forkrpc import CallTimeout, Forker

LIMIT = 20.0  # seconds; much more than it takes


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_poolview").require(__name__) as template:
        template.ready(LIMIT)
        yield template


def test_a_limit_is_for_the_calls_of_the_view_only(template):
    with template.pool(time.sleep, max=1) as pool:
        view = pool.with_options(timeout=0.05)
        for made in (view, view.with_options(retries=2)):
            with pytest.raises(CallTimeout):
                made.call(600)
            with pytest.raises(CallTimeout):
                made.submit(600).result(LIMIT)
        assert pool.call(0.1) is None


def test_settings_add_up_and_show(template):
    with template.pool(time.sleep, max=1) as pool:
        view = pool.with_options(timeout=5).with_options(retries=2)
        assert "timeout 5, retries 2" in repr(view)


def test_tasks_wait_for_room(template):
    async def main():
        async with template.pool(time.sleep, max=1, load=1, queue_limit=1) as pool:
            view = pool.with_options(retries=1)
            await asyncio.gather(*(view.acall(0.001) for _ in range(20)))

    asyncio.run(asyncio.wait_for(main(), LIMIT))


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"retries": -1}, ValueError, "retries must be 0 or more"),
        ({"retries": "2"}, TypeError, "retries must be a number"),
        ({"timeout": 0}, ValueError, "timeout must be seconds above 0"),
        ({"retrys": 1}, TypeError, "did you mean 'retries'"),
    ],
)
def test_bad_settings_raise_at_once(template, options, kind, text):
    with template.pool(time.sleep, max=1) as pool, pytest.raises(kind, match=text):
        pool.with_options(**options)
