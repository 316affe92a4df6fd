"""Unit: signals, statuses and lifelines of real processes.

Processes are forked in fresh programs, which have no threads.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from forkrpc import system
from helpers import run_program

linux_only = pytest.mark.skipif(not system.LINUX, reason="Linux only")


def result_of(source):
    """Run a program; return what it gave to `report`, decoded from JSON."""
    prelude = (
        "import json, os, select, signal, sys\n"
        "from forkrpc import system\n"
        "def report(value): print(json.dumps(value), flush=True)\n"
        "def child(function, *args):\n"
        "    pid = os.fork()\n"
        "    if pid: return pid\n"
        "    try: function(*args)\n"
        "    finally: os._exit(99)\n"
        "def sleep_on(): signal.pause()\n"
        "def await_zombie(pid): os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
    )
    done = run_program(prelude + source)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def sleeper():
    """A process that leads its own group and does nothing."""
    source = "import signal; print(flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", source],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def pidfd(sleeper):
    fd = system.pidfd_open(sleeper.pid)
    yield fd
    if fd is not None:
        os.close(fd)


with_and_without_pidfd = pytest.mark.parametrize("known", [True, False])


# Sending signals.


def test_there_is_no_pidfd_of_a_process_that_is_gone(sleeper):
    sleeper.kill()
    sleeper.wait()

    assert system.pidfd_open(sleeper.pid) is None


@with_and_without_pidfd
def test_a_signal_reaches_the_process(sleeper, pidfd, known):
    sent = system.send_signal(sleeper.pid, pidfd if known else None, signal.SIGTERM)

    assert sent
    assert sleeper.wait(5) == -signal.SIGTERM


@with_and_without_pidfd
def test_a_signal_to_a_process_that_is_gone_tells_so(sleeper, pidfd, known):
    sleeper.kill()
    sleeper.wait()

    assert not system.send_signal(sleeper.pid, pidfd if known else None, signal.SIGTERM)
    assert not system.kill_group(sleeper.pid, pidfd if known else None, signal.SIGTERM)


@with_and_without_pidfd
def test_a_signal_to_a_group_reaches_what_the_process_has_started(known):
    found = result_of(
        f"""
def leader():
    os.setpgid(0, 0)
    grandchild = child(sleep_on)
    os.write(ours[1], grandchild.to_bytes(8, "little"))
    signal.pause()

ours = os.pipe()
pid = child(leader)
grandchild = int.from_bytes(os.read(ours[0], 8), "little")
system.become_subreaper()
pidfd = system.pidfd_open(pid) if {known} else None
sent = system.kill_group(pid, pidfd, signal.SIGKILL)
report([sent] + [os.waitpid(each, 0)[1] for each in (pid, grandchild)])
"""
    )

    assert found == [True, signal.SIGKILL, signal.SIGKILL]


@with_and_without_pidfd
def test_a_signal_to_a_group_reaches_it_also_when_its_leader_is_a_zombie(known):
    found = result_of(
        f"""
def leader():
    os.setpgid(0, 0)
    grandchild = child(sleep_on)
    os.write(ours[1], grandchild.to_bytes(8, "little"))
    os._exit(0)

ours = os.pipe()
system.become_subreaper()
pid = child(leader)
grandchild = int.from_bytes(os.read(ours[0], 8), "little")
await_zombie(pid)
pidfd = system.pidfd_open(pid) if {known} else None
sent = system.kill_group(pid, pidfd, signal.SIGKILL)
report([sent] + [os.waitpid(each, 0)[1] for each in (pid, grandchild)])
"""
    )

    assert found == [True, 0, signal.SIGKILL]


def test_a_process_without_a_group_of_its_own_gets_the_signal_itself():
    found = result_of(
        """
pid = child(sleep_on)
sent = system.kill_group(pid, system.pidfd_open(pid), signal.SIGKILL)
report([sent, os.waitpid(pid, 0)[1]])
"""
    )

    assert found == [True, signal.SIGKILL]


# Statuses.


@linux_only
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("os._exit(0)", 0),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 11)", -11),
    ],
)
def test_the_status_of_a_zombie_is_known_and_it_stays_to_be_reaped(end, expected):
    found = result_of(
        f"""
pid = child(exec, {end!r})
pidfd = system.pidfd_open(pid)
await_zombie(pid)
statuses = system.exit_status(pid, pidfd), os.waitpid(pid, 0)[1]
report([os.waitstatus_to_exitcode(status) for status in statuses])
"""
    )

    assert found == [expected, expected]


@linux_only
def test_the_status_of_a_reaped_process_is_kept_by_its_pidfd_on_new_kernels():
    found = result_of(
        """
pid = child(os._exit, 7)
pidfd = system.pidfd_open(pid)
os.waitpid(pid, 0)
status = system.exit_status(pid, pidfd)
report(status if status is None else os.waitstatus_to_exitcode(status))
"""
    )

    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    assert found == (7 if release >= (6, 15) else None)


def test_the_status_of_a_running_process_is_unknown(sleeper, pidfd):
    assert system.exit_status(sleeper.pid, pidfd) is None


def test_the_status_is_unknown_without_a_pidfd():
    assert system.exit_status(os.getpid(), None) is None


@linux_only
def test_a_name_with_brackets_does_not_hide_the_status_of_a_zombie():
    found = result_of(
        """
def named():
    system.set_title("a) Z 1 (")
    os._exit(3)

pid = child(named)
await_zombie(pid)
report(os.waitstatus_to_exitcode(system.exit_status(pid, system.pidfd_open(pid))))
os.waitpid(pid, 0)
"""
    )

    assert found == 3


# The lifeline.

LIFELINE = """
def tie(lifeline, held):
    os.close(held)
    os.setpgid(0, 0)
    own = system.arm_lifeline(lifeline)
    return own, system.hung_up(own)

lifeline, held = os.pipe()
ready = os.pipe()
def tell(value): os.write(ready[1], bytes([value]))
def told(): return os.read(ready[0], 1)[0]
"""


def test_a_process_ends_when_the_program_is_gone_even_in_a_busy_loop():
    found = result_of(
        LIFELINE
        + """
def busy():
    own, gone = tie(lifeline, held)
    tell(gone)
    while True: pass

pid = child(busy)
gone = told()
os.close(held)
report([gone, os.waitpid(pid, 0)[1] & 0x7F == system.LIFELINE_SIGNAL])
"""
    )

    assert found == [0, True]


def test_the_whole_group_ends_and_who_left_it_does_not():
    found = result_of(
        LIFELINE
        + """
def away():
    os.setsid()
    tell(1)
    signal.pause()

def leader():
    tie(lifeline, held)
    pids = child(sleep_on), child(away)
    told_by_away = os.read(own[0], 1)
    tell(0)
    for pid in pids: os.write(pipe[1], pid.to_bytes(8, "little"))
    signal.pause()

own = ready
pipe = os.pipe()
system.become_subreaper()
pid = child(leader)
inside, outside = (int.from_bytes(os.read(pipe[0], 8), "little") for _ in range(2))
os.close(held)
ends = [os.waitpid(each, 0)[1] & 0x7F for each in (pid, inside)]
alive = os.waitpid(outside, os.WNOHANG) == (0, 0)
os.kill(outside, signal.SIGKILL)
os.waitpid(outside, 0)
report([ends == [system.LIFELINE_SIGNAL] * 2, alive])
"""
    )

    assert found == [True, True]


def test_a_program_that_went_before_the_lifeline_was_armed_is_seen_by_looking():
    found = result_of(
        LIFELINE
        + """
def late():
    system.mortal(False)
    told()
    _, gone = tie(lifeline, held)
    os._exit(gone)

pid = child(late)
os.close(held)
tell(0)
report(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    )

    assert found == 1


def test_a_process_that_is_not_mortal_stays_and_can_become_mortal_again():
    found = result_of(
        LIFELINE
        + """
def leaving():
    system.mortal(False)
    own, _ = tie(lifeline, held)
    tell(0)
    select.select([own], [], [])
    tell(system.hung_up(own))
    told_to_go = os.read(go[0], 1)
    system.mortal(True)
    os.kill(os.getpid(), system.LIFELINE_SIGNAL)

go = os.pipe()
pid = child(leaving)
told()
os.close(held)
gone = told()
os.write(go[1], b"x")
report([gone, os.waitpid(pid, 0)[1] & 0x7F == system.LIFELINE_SIGNAL])
"""
    )

    assert found == [1, True]


def test_what_a_process_that_is_not_mortal_executes_is_mortal():
    found = result_of(
        LIFELINE
        + """
def executing():
    system.mortal(False)
    own, _ = tie(lifeline, held)
    os.set_inheritable(ready[1], True)
    source = f"import os, signal; os.write({ready[1]}, b'0'); signal.pause()"
    os.set_inheritable(own, True)
    os.execv(sys.executable, [sys.executable, "-S", "-c", source])

pid = child(executing)
told()
os.close(held)
report(os.waitpid(pid, 0)[1] & 0x7F == system.LIFELINE_SIGNAL)
"""
    )

    assert found is True


@linux_only
def test_arming_closes_the_descriptor_and_returns_one_of_its_own():
    found = result_of(
        LIFELINE
        + """
def arming():
    own, _ = tie(lifeline, held)
    shared = os.path.exists(f"/proc/self/fd/{lifeline}") and own != lifeline
    tell(shared)
    tell(os.get_inheritable(own))
    os._exit(0)

pid = child(arming)
report([told(), told(), os.waitpid(pid, 0)[1]])
"""
    )

    assert found == [0, 0, 0]


def test_a_lifeline_that_is_held_is_not_hung_up():
    read, write = os.pipe()

    held = system.hung_up(read)
    os.close(write)
    dropped = system.hung_up(read)

    assert (held, dropped) == (False, True)
    os.close(read)


# Signals.


def test_signals_are_pythons_own_defaults_whatever_modules_made_of_them():
    found = result_of(
        """
def defaults():
    return {n: repr(signal.getsignal(n)) for n in signal.valid_signals()}

before = defaults()
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
system.default_signals()
left = signal.pthread_sigmask(signal.SIG_BLOCK, ())
report([defaults() == before, sorted(left)])
"""
    )

    assert found == [True, []]


def test_an_ignored_signal_is_taken_back_too():
    found = result_of(
        """
for number in signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD:
    signal.signal(number, signal.SIG_IGN)
system.default_signals()
report([
    signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    signal.getsignal(signal.SIGHUP) == signal.SIG_DFL,
    signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    signal.getsignal(signal.SIGINT) is signal.default_int_handler,
])
"""
    )

    assert found == [True, True, True, True]


@linux_only
def test_orphans_become_children_of_a_subreaper():
    found = result_of(
        """
def parent():
    os.write(pipe[1], child(os._exit, 5).to_bytes(8, "little"))
    os._exit(0)

pipe = os.pipe()
system.become_subreaper()
pid = child(parent)
orphan = int.from_bytes(os.read(pipe[0], 8), "little")
os.waitpid(pid, 0)
report(os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]))
"""
    )

    assert found == 5


@linux_only
def test_becoming_a_subreaper_does_not_load_ctypes():
    found = result_of("system.become_subreaper(); report('ctypes' in sys.modules)")

    assert found is False


@linux_only
def test_a_process_can_end_with_the_one_that_has_forked_it():
    found = result_of(
        """
def parent():
    pid = os.getpid()
    def wait(asked):
        for each in asked:
            system.end_with_parent(each and pid)
        os.write(ready[1], b"x")
        os.read(held[0], 1)
    both = [child(wait, [True]), child(wait, [True, None])]
    os.read(ready[0], 1), os.read(ready[0], 1)
    os.write(pipe[1], repr(both).encode())
    os._exit(0)

pipe, ready, held = os.pipe(), os.pipe(), os.pipe()
system.become_subreaper()
pid = child(parent)
one, other = eval(os.read(pipe[0], 99))
os.waitpid(pid, 0)
ended = os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])
left = os.waitpid(other, os.WNOHANG) == (0, 0)
os.kill(other, 9)
os.waitpid(other, 0)
report((ended, left))
"""
    )

    assert found == [-signal.SIGKILL, True]


@linux_only
def test_a_process_whose_parent_has_ended_before_ends_itself():
    found = result_of(
        """
pid = child(system.end_with_parent, 2**22 + 1)
report(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    )

    assert found == 1


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV"])
def test_a_process_ends_as_by_a_signal_though_it_had_it_blocked(name):
    found = result_of(
        f"""
def blocked():
    number = signal.{name}
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    system.end_by_signal(number)

import signal
pid = child(blocked)
report(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    )

    assert found == -getattr(signal, name)


# The rest.


@linux_only
@pytest.mark.parametrize("title", ["12 mod.function", "grüße " + "x" * 300])
def test_a_title_shows_in_the_process_table(title):
    source = f"""
system.set_title({title!r})
with open("/proc/self/comm", "rb") as file:
    report(file.read().decode("utf-8", "replace"))
"""
    without = "sys.modules['setproctitle'] = None\n"

    for found in result_of(source), result_of(without + source):
        start = title.replace(" ", "_").encode()[:15].decode("utf-8", "replace")
        assert found.rstrip("\n") == start.rstrip("\n")


def test_the_number_of_processors_is_what_this_process_may_use():
    assert system.usable_cpus() == len(os.sched_getaffinity(0))


def test_the_number_of_processors_is_at_least_one_elsewhere(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")

    assert system.usable_cpus() >= 1
