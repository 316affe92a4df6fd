"""End-to-end: nothing outlives a program, by whatever end, unless it was asked to."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap

import pytest

from helpers import CHECKOUT, process_alive, process_stat, wait_until

LIMIT = 20.0  # seconds for a program to come up
PROMISED = 1.0  # seconds after which nothing is left
GONE = 5.0  # the same on a machine that is busy with other things

# Each worker tells by a file when it is where it is wanted.
PROGRAM = """
    import os, signal, subprocess, sys
    import forkrpc

    kinds, orphan, end = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
    folder = os.getcwd()
    FUNCTIONS = '''
    import atexit, os, re, signal, subprocess, sys, time

    def touch(name):
        open(os.path.join(args[0], name), "x").close()

    def idle():
        atexit.register(touch, f"left-{os.getpid()}")

    def python():
        touch(f"at-{os.getpid()}")
        while True:
            pass

    def python_ignoring():
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP) and number < 32:
                signal.signal(number, signal.SIG_IGN)
        python()

    def match():
        touch(f"at-{os.getpid()}")
        re.match("(a+)+$", 60 * "a" + "b")

    def total():
        touch(f"at-{os.getpid()}")
        sum(range(10**12))

    def call():
        child = subprocess.Popen(["sleep", "1000"])
        touch(f"at-{os.getpid()}")
        child.wait()

    def shell():
        touch(f"at-{os.getpid()}")
        os.system("sleep 1000; true")

    def leaves_child():
        subprocess.Popen(["sleep", "1000"])

    def thread():
        import threading
        threading.Thread(target=threading.Event().wait).start()
        idle()

    def gate():
        touch(f"at-{os.getpid()}")
        with open(os.path.join(args[0], "gate"), "rb") as file:
            file.read()
        return result("gate")

    def result(name):
        touch(f"result-{name}")
        return b"x" * 1_000_000  # nobody reads it

    def pause(sock):
        touch(f"at-{os.getpid()}")
        while True:
            signal.pause()

    def execute(sock):
        touch(f"at-{os.getpid()}")
        os.execvp("sleep", ["sleep", "1000"])
    '''
    template = forkrpc.Forker().eval(FUNCTIONS, folder)
    pids, keep = {}, []
    for kind in kinds:
        if kind == "require":
            with open("slow_module.py", "w") as file:
                file.write("open('at-require', 'x').close()\\nimport time\\n")
                file.write("time.sleep(1000)\\n")
            keep.append(forkrpc.Forker().require("slow_module"))
            continue
        name, _, outlive = kind.partition("+")
        if name in ("pause", "execute"):
            process = template.spawn(name, outlive=bool(outlive))
            pids[kind] = process.pid
            keep.append(process)
            continue
        proxy = template.run(name, orphan=orphan)
        keep.append(proxy)
        pids[kind] = proxy.pid
        if name in ("idle", "leaves_child", "thread"):
            proxy.call()
        else:
            keep.append(proxy.submit())
        if name == "gate":
            for number in range(3):
                keep.append(template)
                proxy.submit()
    print(*pids.values(), flush=True)
    if end != "wait":
        sys.stdin.readline()
    if end == "exit":
        forkrpc.exit_grace = 0.2
        sys.exit(0)
    if end == "error":
        forkrpc.exit_grace = 0.2
        raise SystemError("on purpose")
    sys.stdin.read()
    os._exit(3)
"""
EVERYTHING = [
    *("idle", "python", "match", "total", "call", "shell", "leaves_child"),
    *("require", "pause", "execute", "thread", "python_ignoring"),
]
BUSY = {"python", "match", "total", "call", "shell", "pause", "execute", "gate"} | {
    "python_ignoring"
}
_numbers = itertools.count()


class Program:
    """A program with workers, and all that comes from it."""

    def __init__(self, folder, kinds, orphan="kill", end="wait"):
        self.folder, self.kinds = folder, kinds
        self._mark = f"FORKRPC_TRIAL={os.getpid()}-{next(_numbers)}"
        self.path = folder / "program.py"
        self.path.write_text(textwrap.dedent(PROGRAM))
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        env.update([self._mark.split("=")])
        self.process = subprocess.Popen(
            [sys.executable, str(self.path), ",".join(kinds), orphan, end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=env,
            text=True,
            start_new_session=True,
        )
        self.pids = {}

    def wait_until_up(self):
        """Wait until each worker is where it is wanted."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        names = [kind for kind in self.kinds if kind != "require"]
        self.pids = dict(zip(names, map(int, line.split()), strict=True))
        for kind, pid in self.pids.items():
            if kind.partition("+")[0] in BUSY:
                wait_until((self.folder / f"at-{pid}").exists, LIMIT, kind)
            else:  # it has answered; now it reads
                wait_until(lambda pid=pid: at_rest(pid), LIMIT, kind)
        if "require" in self.kinds:
            wait_until((self.folder / "at-require").exists, LIMIT, "require")
        return self

    def end(self, how):
        if how == "os._exit":
            self.process.stdin.close()
        elif how.startswith("SIG"):
            self.process.send_signal(getattr(signal, how))
        return self.process.wait(LIMIT)

    def family(self):
        """Return the pids of all that this program left and that runs."""
        return [int(name) for name in os.listdir("/proc") if self._is_mine(name)]

    def _is_mine(self, name):
        if not name.isdigit() or not process_alive(int(name)):
            return False
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                return self._mark.encode() in file.read().split(b"\0")
        except OSError:
            return False

    def check_all_gone(self, limit, but=()):
        wait_until(
            lambda: set(self.family()) <= set(but),
            limit,
            lambda: f"end of {[self._describe(pid) for pid in self.family()]}",
        )

    def _describe(self, pid):
        for kind, each in self.pids.items():
            if each == pid:
                return kind
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid, file.read()[:80]
        return pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for file in self.process.stdin, self.process.stdout, self.process.stderr:
            with contextlib.suppress(BrokenPipeError):
                file.close()


def at_rest(pid):
    """Return whether a process sleeps, or is gone."""
    stat = process_stat(pid)
    return stat is None or stat[0] == "S"


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "os._exit"])
@pytest.mark.parametrize("kind", EVERYTHING)
def test_nothing_is_left_of_a_program_that_is_gone(tmp_path, kind, end):
    with Program(tmp_path, [kind]) as program:
        program.wait_until_up()
        program.end(end)

        program.check_all_gone(GONE)
        check_idle_ones_left_in_order(program)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGHUP", "os._exit"])
def test_nothing_is_left_of_a_program_with_workers_of_all_kinds(tmp_path, end):
    with Program(tmp_path, EVERYTHING) as program:
        program.wait_until_up()
        program.end(end)

        program.check_all_gone(GONE)
        check_idle_ones_left_in_order(program)


def check_idle_ones_left_in_order(program):
    if "idle" in program.pids:
        assert (program.folder / f"left-{program.pids['idle']}").exists()


# A child that is left behind by a worker closed in order is nobody's, as ever.
ENDED_IN_ORDER = [kind for kind in EVERYTHING if kind not in ("leaves_child", "thread")]


@pytest.mark.parametrize("end", ["exit", "error"])
def test_nothing_is_left_of_a_program_that_ends_with_busy_workers(tmp_path, end):
    with Program(tmp_path, ENDED_IN_ORDER, end=end) as program:
        program.wait_until_up()
        program.process.stdin.write("go on\n")
        program.process.stdin.flush()
        assert program.process.wait(LIMIT) == (1 if end == "error" else 0)

        program.check_all_gone(GONE)
        check_idle_ones_left_in_order(program)
        assert "calls were not finished" in program.process.stderr.read()


def test_nothing_is_left_of_a_program_that_is_interrupted(tmp_path):
    with Program(tmp_path, ENDED_IN_ORDER) as program:
        program.wait_until_up()
        assert program.end("SIGINT") == -signal.SIGINT

        program.check_all_gone(GONE)
        check_idle_ones_left_in_order(program)
        assert program.process.stderr.read().count("Traceback") == 1


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "os._exit"])
def test_an_orphan_that_is_to_finish_finishes_what_it_has(tmp_path, end):
    os.mkfifo(tmp_path / "gate")
    with Program(tmp_path, ["gate", "python"], "finish") as program:
        program.wait_until_up()
        os.kill(program.pids["python"], signal.SIGKILL)
        program.end(end)
        worker = program.pids["gate"]
        program.check_all_gone(GONE * 2, but=[worker, *program.family()])
        assert process_alive(worker)

        with open(tmp_path / "gate", "wb"):
            pass

        wait_until((tmp_path / "result-gate").exists, LIMIT)
        os.close(os.open(tmp_path / "gate", os.O_RDWR | os.O_NONBLOCK))
        program.check_all_gone(LIMIT)


def test_an_idle_orphan_that_is_to_finish_leaves_in_order(tmp_path):
    with Program(tmp_path, ["idle"], "finish") as program:
        program.wait_until_up()
        program.end("SIGKILL")

        program.check_all_gone(GONE)
        check_idle_ones_left_in_order(program)


@pytest.mark.parametrize("kind", ["pause", "execute"])
def test_a_spawned_process_outlives_the_program_only_if_asked(tmp_path, kind):
    with Program(tmp_path, [kind, f"{kind}+outlive"]) as program:
        program.wait_until_up()
        mortal, survivor = program.pids.values()
        program.end("SIGKILL")

        wait_until(lambda: not process_alive(mortal), GONE)
        assert process_alive(survivor)
        os.kill(survivor, signal.SIGKILL)
        program.check_all_gone(GONE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_300_programs_killed_with_workers_of_all_kinds_leave_nothing(tmp_path):
    for trial in range(300):
        folder = tmp_path / str(trial)
        folder.mkdir()
        with Program(folder, EVERYTHING) as program:
            program.wait_until_up()
            program.end("SIGKILL")

            program.check_all_gone(PROMISED)
            check_idle_ones_left_in_order(program)


@pytest.mark.parametrize(
    "trials",
    [
        10,
        pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_programs_killed_at_any_time_leave_nothing(tmp_path, trials):
    chance = random.Random(trials)
    for trial in range(trials):
        folder = tmp_path / str(trial)
        folder.mkdir()
        with Program(folder, EVERYTHING) as program:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(chance.uniform(0.03, 0.25))
            program.end("SIGKILL")

            program.check_all_gone(GONE)
