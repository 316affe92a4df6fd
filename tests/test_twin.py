"""End-to-end: the twin of a template: when it is forked, and what its workers have."""

import os

import pytest

from forkrpc import Forker, SetupError
from helpers import process_alive, wait_until

LIMIT = 20.0  # seconds; much more than it takes

SOURCE = """
import os, sys

def loaded(*names):
    return [name in sys.modules for name in names]

async def parent(*_):
    return os.getppid()

class Given:
    def __init__(self, *values):
        self.values = values

    async def __call__(self):
        return [value if isinstance(value, int) else value.fileno() > 2
                for value in self.values]
"""


def parent_of(template):
    with template.run("parent", backend="async") as proxy:
        return proxy.call()


def test_async_workers_share_a_twin_and_a_sync_worker_has_no_asyncio():
    with Forker().eval(SOURCE) as template:
        twin = parent_of(template)
        assert twin != template.pid
        assert parent_of(template) == twin
        with template.run("loaded") as proxy:
            assert proxy.call("asyncio", "forkrpc.child.aio") == [False, False]


def test_behind_a_step_that_runs_code_there_is_a_new_twin(tmp_path):
    path = tmp_path / "count"
    with Forker().eval(SOURCE) as template:
        twin = parent_of(template)
        template.eval("open(args[0], 'a').write('x'); given = 7", str(path))
        template.eval("async def late(): return given")
        another = parent_of(template)
        assert another != twin
        with template.run("late", backend="async") as proxy:
            assert proxy.call() == 7
        assert path.read_text() == "x"
        wait_until(lambda: not process_alive(twin), LIMIT, "end of the old twin")


def test_values_and_files_reach_the_twin_in_order():
    read, write = os.pipe()
    try:
        with Forker().eval(SOURCE) as template:
            twin = parent_of(template)
            template.send_arg(1)
            with open(write, "wb", closefd=False) as file:
                template.send_fh(file)
            template.send_arg(2)
            assert parent_of(template) == twin
            with template.run("Given", backend="async") as proxy:
                assert proxy.call() == [1, True, 2]
    finally:
        os.close(read)
        os.close(write)


def test_a_step_that_failed_fails_async_workers_too():
    with Forker().eval(SOURCE).require("no_such_module") as template:
        proxy = template.run("parent", backend="async", on_error=lambda error: None)
        with pytest.raises(SetupError, match="require 'no_such_module'"):
            proxy.call()


def test_a_fork_takes_all_along_but_not_the_twin():
    with Forker().eval(SOURCE) as template:
        twin = parent_of(template)
        with template.fork() as fork:
            assert parent_of(fork) not in (twin, template.pid, fork.pid)


def test_the_twin_ends_with_the_template_and_its_workers_go_on():
    template = Forker().eval(SOURCE)
    proxy = template.run("parent", backend="async")
    twin = proxy.call()
    template.close()
    assert proxy.call() == twin
    proxy.close()
    assert proxy.join(LIMIT)
    assert proxy.returncode == 0
    wait_until(lambda: not process_alive(twin), LIMIT, "end of the twin")


def test_a_twin_that_was_killed_is_replaced():
    with Forker().eval(SOURCE) as template:
        twin = parent_of(template)
        os.kill(twin, 9)
        link = template._link._twin._twin
        wait_until(lambda: link.ended, LIMIT)
        assert parent_of(template) != twin


def test_a_detached_template_makes_a_twin_of_its_own():
    template = Forker().eval(SOURCE)
    twin = parent_of(template)
    with Forker.from_socket(template.detach()) as other:
        assert parent_of(other) != twin
    wait_until(lambda: not process_alive(twin), LIMIT, "end of the twin")


def test_without_free_descriptors_the_next_twin_is_forked_anew(monkeypatch):
    from forkrpc import twin as twin_module

    def refuse(fd):
        raise OSError(24, "Too many open files")

    with Forker().eval(SOURCE) as template, open(os.devnull) as file:
        twin = parent_of(template)
        with monkeypatch.context() as patch:
            patch.setattr(twin_module, "duplicate", refuse)
            template.send_fh(file)
        with template.run("Given", backend="async") as proxy:
            assert proxy.call() == [True]
        assert parent_of(template) != twin
