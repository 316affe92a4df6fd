"""Unit: processes that take turns, forked by a keeper that is forked by the test."""

import errno
import mmap
import os
import signal
import threading
import time

import pytest

from forkrpc import progress
from forkrpc.child.keeper import AHEAD, MOST, Turns, take_turn
from helpers import process_alive, wait_until

LIMIT = 10.0  # seconds; much more than it takes


@pytest.fixture
def page():
    memory = mmap.mmap(-1, progress.BLOCK)
    made = progress.Page(memoryview(memory))
    yield made
    made.release()


@pytest.fixture
def turns(page):
    made = Turns(page)
    yield made
    for each in made._pipes:
        for fd in each:
            os.close(fd)


def start_keeper(page, act, *foreign):
    """Fork a keeper whose processes call *act* with their Turn; return its pid.

    foreign: descriptors that they shall not have.
    """
    pid = os.fork()
    if pid:
        return pid
    for fd in foreign:
        os.close(fd)
    try:
        act(take_turn(page, "name"))
    finally:
        os._exit(1)


def end_of(pid):
    """Return the exit code of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines_of(fd):
    try:
        return os.read(fd, 1 << 16).decode().split()
    except BlockingIOError:
        return []


def test_the_first_turn_has_come(turns):
    assert turns.wait(1)
    assert turns.last() == 0


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_each_of_two_is_woken_by_the_one_before(turns, order):
    had = []

    def wait(number):
        assert turns.wait(number)
        had.append(number)
        turns.hand_on(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in order]
    for each in threads:
        each.start()
    turns.hand_on(1)
    for each in threads:
        each.join(LIMIT)

    assert had == [2, 3]
    assert turns.last() == 3


def test_who_waits_is_told_that_its_turn_never_comes(turns):
    told = []
    threads = [
        threading.Thread(target=lambda at=at: told.append(turns.wait(at)))
        for at in (2, 3)
    ]
    for each in threads:
        each.start()

    turns.close()

    for each in threads:
        each.join(LIMIT)
    assert told == [False, False]
    assert not turns.wait(7)


def test_bells_that_nobody_hears_block_nobody(turns):
    for number in range(1, 200_000):
        turns.hand_on(number)


def test_processes_take_turns(page, pipe):
    read, write = pipe

    def act(turn):
        assert turn.wait()
        os.write(write, f"{turn.number} {os.getppid() == turn.keeper}\n".encode())
        if turn.number == 50:
            os._exit(5)
        turn.hand_on(long=False)
        os._exit(0)

    assert end_of(start_keeper(page, act)) == 5
    words = lines_of(read)
    assert words[::2] == [str(number) for number in range(1, 51)]
    assert set(words[1::2]) == {"True"}


@pytest.mark.parametrize(
    "end",
    [
        lambda: os._exit(0),
        lambda: os._exit(9),
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
        lambda: os.kill(os.getpid(), signal.SIGUSR1),
    ],
)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_keeper_ends_as_one_did_whose_turn_it_was(page, pipe, end, at):
    read, write = pipe

    def act(turn):
        if not turn.wait():
            os.write(write, b"left\n")
            os._exit(0)
        if turn.number == at:
            end()
        turn.hand_on(long=False)
        os._exit(0)

    pid = os.fork()
    if not pid:
        end()
    assert end_of(start_keeper(page, act)) == end_of(pid)
    assert lines_of(read) in ([], ["left"])  # it may have been killed after a while


def test_who_has_its_turn_is_not_disturbed_by_the_end_of_the_next(page, pipe):
    read, write = pipe
    gate, opener = os.pipe()

    def act(turn):
        if turn.number == 2:
            os.write(write, b"2\n")
            os._exit(4)
        assert turn.wait()
        os.read(gate, 1)
        os.write(write, f"{turn.number}\n".encode())
        turn.hand_on(long=False)
        os._exit(0)

    pid = start_keeper(page, act, opener)
    os.close(gate)
    heard = []
    wait_until(lambda: heard.extend(lines_of(read)) or heard, LIMIT)
    assert (heard, os.waitpid(pid, os.WNOHANG)) == (["2"], (0, 0))
    os.close(opener)

    assert end_of(pid) == 4
    assert lines_of(read) == ["1"]


def test_no_more_than_so_many_are_about_to_end(page, pipe):
    read, write = pipe
    gate, opener = os.pipe()

    def act(turn):
        os.write(write, f"{turn.number}\n".encode())
        assert turn.wait()
        if turn.number > 2 * MOST:
            os._exit(3)
        turn.hand_on(long=True)
        os.read(gate, 1)
        os._exit(0)

    pid = start_keeper(page, act, opener)
    os.close(gate)
    heard = []
    wait_until(lambda: heard.extend(lines_of(read)) or len(heard) == MOST, LIMIT)
    time.sleep(0.05)
    assert lines_of(read) == []
    os.close(opener)  # they all go on

    assert end_of(pid) == 3


def test_a_keeper_goes_on_where_the_system_refuses_some_forks(page, monkeypatch):
    tries = []
    fork = os.fork

    def refuse():
        tries.append(1)
        if len(tries) % 2:
            raise OSError(errno.EAGAIN, "none")
        return fork()

    def act(turn):
        assert turn.wait()
        if turn.number == 10:
            os._exit(6)
        turn.hand_on(long=False)
        os._exit(0)

    pid = fork()
    if not pid:
        try:
            # Only those forks, and not the first: then there is nobody to wait for.
            monkeypatch.setattr(os, "fork", refuse)
            tries.append(1)
            act(take_turn(page, "name"))
        finally:
            os._exit(1)
    assert end_of(pid) == 6


def test_a_keeper_that_can_fork_nobody_raises(page, monkeypatch):
    def refuse():
        raise OSError(errno.EAGAIN, "none")

    pid = os.fork()
    if not pid:
        monkeypatch.setattr(os, "fork", refuse)
        try:
            take_turn(page, "name")
        except OSError:
            os._exit(8)
        os._exit(1)
    assert end_of(pid) == 8


def test_a_process_ends_with_its_keeper(page, pipe):
    read, write = pipe

    def act(_turn):
        os.write(write, f"{os.getpid()}\n".encode())
        time.sleep(10 * LIMIT)

    pid = start_keeper(page, act)
    heard = []
    wait_until(lambda: heard.extend(lines_of(read)) or len(heard) == AHEAD, LIMIT)
    os.kill(pid, signal.SIGKILL)
    assert end_of(pid) == -signal.SIGKILL

    wait_until(lambda: not any(process_alive(int(each)) for each in heard), LIMIT)


def test_signals_for_the_group_are_for_the_processes(page, pipe):
    read, write = pipe

    def act(turn):
        os.setpgid(0, turn.keeper)
        signal.signal(signal.SIGTERM, lambda *_: os.write(write, b"told\n"))
        os.write(write, b"ready\n")
        assert turn.wait()
        if turn.number == 1:
            signal.pause()
        os._exit(2)

    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        try:
            act(take_turn(page, "name"))
        finally:
            os._exit(1)
    heard = []
    wait_until(lambda: heard.extend(lines_of(read)) or len(heard) == AHEAD, LIMIT)
    os.killpg(pid, signal.SIGTERM)

    assert end_of(pid) == 2
    assert "told" in lines_of(read)


def test_the_end_behind_an_answer_is_told(page, capfd):
    def act(turn):
        assert turn.wait()
        if turn.number == 3:
            os._exit(0)
        turn.hand_on(long=False)
        if turn.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(7)

    assert end_of(start_keeper(page, act)) == 0
    told = capfd.readouterr().err
    assert told.count("forkrpc: name was ended by signal 9 behind its answer\n") == 1
    assert told.count("forkrpc: name exited with 7 behind its answer\n") == 1
