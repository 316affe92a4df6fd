"""End-to-end: what the library keeps for one program, its end, and forked copies."""

import os
import signal

import pytest

from forkrpc.program import current
from helpers import process_alive, run_program, wait_until

# Every program below begins with this.
PRELUDE = """
import os, signal, subprocess, sys, threading, time, warnings
import forkrpc
from forkrpc import Forker

# Of os.fork in a program with threads, which is what is tested here.
warnings.simplefilter("ignore", DeprecationWarning)

def children():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{name}/stat").read()
        except OSError:
            continue  # it has just gone
        if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(name))
    return found

def descriptors():
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")}

def forked(function):
    "Return the exit status of a forked copy that calls function."
    pid = os.fork()
    if not pid:
        try:
            function()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
"""


def run(source, **options):
    return run_program(PRELUDE + source, **options)


# One state for the program.


def test_importing_starts_neither_process_nor_thread():
    done = run(
        """
for name in forkrpc.__all__:
    getattr(forkrpc, name)
print(children(), threading.active_count())
"""
    )

    assert (done.stdout, done.stderr) == ("[] 1\n", "")


def test_all_templates_are_forked_from_one_that_is_executed_once():
    done = run(
        """
templates = [Forker().ready() for _ in range(3)]
print(len(children()), len({each.pid for each in templates}), threading.active_count())
"""
    )

    assert (done.stdout, done.stderr) == ("1 3 2\n", "")


def test_threads_that_begin_at_once_share_one_state():
    done = run(
        """
barrier = threading.Barrier(8)
def begin():
    barrier.wait()
    with Forker() as template:
        template.ready()

threads = [threading.Thread(target=begin) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(children()), threading.active_count())
"""
    )

    assert (done.stdout, done.stderr) == ("1 2\n", "")


def test_a_default_template_that_died_is_replaced():
    done = run(
        """
from forkrpc.program import current

Forker().ready()
(pid,) = children()
link = current().default_template()
os.kill(pid, signal.SIGKILL)
while not link.ended: time.sleep(0.01)
with Forker() as template, template.run("os.getpid") as proxy:
    print(proxy.call() == proxy.pid, current().default_template() is not link)
"""
    )

    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_the_thread_that_runs_callbacks_may_not_wait_for_itself():
    program, found = current(), []

    def wait():
        try:
            program.check_may_wait("drain()")
        except RuntimeError as error:
            found.append(str(error))

    program.reactor.soon(wait)
    wait_until(lambda: found)

    assert found[0].startswith("drain() would wait for ever")
    program.check_may_wait("drain()")


# The end of the program.


def test_calls_that_are_outstanding_at_the_end_are_finished():
    done = run(
        """
proxy = Forker().run("time.sleep")
proxy(0.2, lambda result: print("called back with", result))
"""
    )

    assert (done.stdout, done.stderr) == ("called back with None\n", "")


def test_calls_that_take_longer_than_the_grace_are_lost_with_one_warning():
    done = run(
        """
forkrpc.exit_grace = 0.2
proxies = [Forker().run("time.sleep") for _ in range(2)]
futures = [proxy.submit(1000) for proxy in proxies for _ in range(2)]
print(*[proxy.pid for proxy in proxies])
""",
        timeout=10,
    )

    assert done.stderr.count("RuntimeWarning") == 1
    assert "4 calls were not finished" in done.stderr
    for pid in map(int, done.stdout.split()):
        wait_until(lambda pid=pid: not process_alive(pid))


def test_an_interrupt_that_ends_the_program_waits_for_nothing():
    done = run(
        """
proxy = Forker().run("time.sleep")
future = proxy.submit(1000)
print(proxy.pid)
raise KeyboardInterrupt
""",
        timeout=8,
    )

    assert done.returncode == -signal.SIGINT
    assert "RuntimeWarning" not in done.stderr
    wait_until(lambda: not process_alive(int(done.stdout)))


def test_an_interrupt_ends_the_wait_at_the_end():
    done = run(
        """
forkrpc.exit_grace = 1000
proxy = Forker().run("time.sleep")
future = proxy.submit(1000)
print(proxy.pid)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
""",
        timeout=20,
    )

    wait_until(lambda: not process_alive(int(done.stdout)))


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(3)", 3), ("1 / 0", 1), ("pass", 0)]
)
def test_the_status_of_the_program_is_its_own(end, status):
    done = run(f"proxy = Forker().run('os.getpid')\nproxy.call()\n{end}")

    assert done.returncode == status


def test_nothing_is_printed_by_workers_and_templates_at_the_end():
    done = run("proxies = [Forker().run('os.getpid') for _ in range(3)]")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_nothing_is_left_of_a_program_that_ends_without_a_word(end):
    done = run(
        f"""
template = Forker()
idle, busy = template.run("time.sleep"), template.run("time.sleep")
busy.submit(1000)
print(idle.pid, busy.pid, template.pid, *children(), flush=True)
{end}
"""
    )

    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 4
    wait_until(lambda: not any(map(process_alive, pids)))


# Forked copies of the program.


def test_a_forked_copy_holds_no_descriptor_of_the_library():
    done = run(
        """
before = descriptors()
proxy = Forker().run("os.getpid")
proxy.call()
process = Forker().send_arg(1).spawn("socket.socket.recv")
process.pid
status = forked(lambda: print(descriptors() - before, flush=True))
print(status, proxy.call() == proxy.pid)
"""
    )

    assert (done.stdout, done.stderr) == ("set()\n0 True\n", "")


def test_the_parents_handles_are_inert_in_a_forked_copy():
    done = run(
        """
proxy = Forker().run("os.getpid")
proxy.call()
template = Forker()
template.ready()

def copy():
    for use in proxy.call, proxy.submit, template.ready, lambda: template.run("m.f"):
        try:
            print(use())
        except forkrpc.ClosedError as error:
            print("closed", end=" ")
    proxy.close()
    template.close()
    proxy.kill()
    print(flush=True)

print(forked(copy))
print(proxy.call() == proxy.pid, template.ready() is template)
"""
    )

    assert done.stderr == ""
    assert done.stdout == "closed closed closed closed \n0\nTrue True\n"


def test_a_forked_copy_that_drops_the_parents_handles_ends_nothing():
    done = run(
        """
import gc
proxy = Forker().run("os.getpid")
template = Forker()
pid = proxy.call()

def copy():
    global proxy, template
    del proxy, template
    gc.collect()

print(forked(copy), proxy.call() == pid, template.ready() is template)
"""
    )

    assert (done.stdout, done.stderr) == ("0 True True\n", "")


def test_a_forked_copy_may_use_the_library_for_itself():
    done = run(
        """
pids = os.pipe()
with Forker().run("os.getpid") as proxy:
    proxy.call()

    def copy():
        with Forker().run("os.getpid") as own:
            assert own.call() == own.pid != proxy.pid
            assert len(children()) == 1

    print(forked(copy), proxy.call() == proxy.pid)
"""
    )

    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_a_forked_copy_that_lives_on_keeps_no_worker_alive():
    done = run(
        """
proxy = Forker().run("time.sleep")
proxy.submit(1000)
print(proxy.pid)
copy = os.fork()
if not copy:
    os.close(1)
    os.close(2)
    signal.pause()
print(copy, flush=True)
os.kill(os.getpid(), 9)
"""
    )

    worker, copy = map(int, done.stdout.split())
    try:
        wait_until(lambda: not process_alive(worker))
        assert process_alive(copy)
    finally:
        os.kill(copy, signal.SIGKILL)
