"""Contract: commands to a template, and its notices."""

import os
import signal
import threading
from _pickle import dumps

import pytest

from forkrpc import program, wire
from forkrpc.fds import socket_pair
from forkrpc.link import Link
from helpers import MS, open_descriptors, process_alive, wait_until

LIMIT = 20.0  # seconds; much more than it takes
GONE = "the template ended before this step; its stderr tells why"


@pytest.fixture
def link():
    """A template forked from the default one."""
    link = program.current().default_template().fork("test_link")
    yield link
    end(link)


def end(link):
    pid = link.pid()
    link.close()
    wait_until(lambda: link.ended, LIMIT, "end of the template")
    wait_until(lambda: pid is None or not process_alive(pid), LIMIT)


class Child:
    """Whoever asks for a process; notes what it is told."""

    def __init__(self):
        self.told = []

    def started(self, pid, pidfd):
        self.told.append(("started", pid))
        if pidfd is not None:
            os.close(pidfd)

    def refused(self, text):
        self.told.append(("refused", text))

    def exited(self, status):
        self.told.append(("exited", status))


def pings(link, count):
    """Ask *count* times; return the list that the answers come into."""
    answers = []
    for _ in range(count):
        link.ping(answers.append)
    return answers


def stop(pid):
    os.kill(pid, signal.SIGSTOP)


# Steps.


def test_a_template_that_did_everything_is_ready(link):
    link.send(wire.REQUIRE, dumps(("json",)))

    assert link.wait(LIMIT) is None


def test_each_ping_is_answered_once(link):
    answers = pings(link, 100)

    wait_until(lambda: len(answers) == 100)
    assert link.wait(LIMIT) is None
    assert answers == [None] * 100


def test_a_step_that_failed_is_told_each_time(link):
    link.send(wire.REQUIRE, dumps(("no_such_module",)))

    texts = [link.wait(LIMIT) for _ in range(3)]

    assert "no_such_module" in texts[0]
    assert texts == texts[:1] * 3


def test_a_worker_behind_a_failed_step_is_refused(link):
    link.send(wire.REQUIRE, dumps(("no_such_module",)))
    child = Child()
    read, write = os.pipe()
    os.close(read)

    link.ask(wire.RUN, dumps({}), [write], child)
    wait_until(lambda: child.told, LIMIT)

    ((what, text),) = child.told
    assert what == "refused"
    assert "no_such_module" in text


def test_a_template_behind_a_failed_step_has_failed_too(link):
    link.send(wire.REQUIRE, dumps(("no_such_module",)))

    fork = link.fork("behind")

    assert "no_such_module" in fork.wait(LIMIT)
    end(fork)


def test_a_template_that_takes_too_long_is_a_timeout(link):
    pid = link.pid()
    stop(pid)
    try:
        with pytest.raises(TimeoutError, match="not ready after 0.001 s"):
            link.wait(1 * MS)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert link.wait(LIMIT) is None


def test_commands_that_the_socket_does_not_take_follow_later(link):
    pid = link.pid()
    stop(pid)
    for _ in range(5):  # none of them waits for the template
        link.send(wire.REQUIRE, dumps(("no_such_" + "x" * (1 << 20),)))
    os.kill(pid, signal.SIGCONT)

    assert "no_such_" in link.wait(LIMIT)


def message_in_the_reactor(link, function):
    told = []

    def call():
        with pytest.raises(RuntimeError) as raised:
            function()
        told.append(str(raised.value))

    link.program.reactor.soon(call)
    wait_until(lambda: told)
    return told[0]


def test_waiting_in_the_thread_that_reads_notices_is_an_error(link):
    message = message_in_the_reactor(link, link.wait)

    assert "ready() would wait for ever" in message


def test_a_pid_that_is_not_known_cannot_be_waited_for_where_notices_are_read(link):
    pid = link.pid()
    stop(pid)
    fork = link.fork("not yet")

    message = message_in_the_reactor(link, fork.pid)
    os.kill(pid, signal.SIGCONT)
    end(fork)

    assert "pid would wait for ever" in message


# The end.


def test_a_template_forks_another_that_ends_by_itself(link):
    fork = link.fork("fork")

    assert process_alive(fork.pid())
    end(fork)

    assert link.wait(LIMIT) is None
    assert fork.why_closed() == "it was closed"


def test_the_death_of_a_template_is_told_to_all_who_wait(link):
    pid = link.pid()
    stop(pid)
    answers, child = pings(link, 3), Child()
    fork = link.fork("never")
    read, write = os.pipe()
    os.close(read)
    link.ask(wire.RUN, dumps({}), [write], child)

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: fork.ended and child.told and len(answers) == 3, LIMIT)

    assert answers == [GONE] * 3
    assert child.told == [("refused", GONE)]
    assert fork.pid() is None
    assert fork.why_closed() == GONE
    assert link.why_closed() == "the template has ended"


def test_a_thread_that_waits_for_a_template_is_told_of_its_death(link):
    pid = link.pid()
    stop(pid)
    texts = []
    thread = threading.Thread(target=lambda: texts.append(link.wait(LIMIT)))
    thread.start()
    wait_until(lambda: link._waiting)

    os.kill(pid, signal.SIGKILL)
    thread.join(LIMIT)

    assert texts == [GONE]


def test_asking_a_dead_template_is_refused_at_once(link):
    os.kill(link.pid(), signal.SIGKILL)
    wait_until(lambda: link.ended, LIMIT)
    before = open_descriptors()
    child = Child()
    read, write = os.pipe()
    os.close(read)

    link.ask(wire.RUN, dumps({}), [write], child)

    assert child.told == [("refused", GONE)]
    assert link.wait(LIMIT) == GONE
    assert open_descriptors() == before


def test_closing_twice_and_closing_what_has_ended_is_harmless(link):
    link.close()
    link.close()
    wait_until(lambda: link.ended, LIMIT)

    link.close()
    link.dropped()


def test_dropping_closes_behind_what_was_queued(link):
    answers = pings(link, 1)

    link.dropped()
    wait_until(lambda: link.ended, LIMIT)

    assert answers == [None]
    assert link.why_closed() == "it was closed"


def test_an_executed_template_is_reaped():
    link = Link.executed(program.current())
    pid = link.pid()
    assert link.wait(LIMIT) is None

    link.close()

    wait_until(lambda: link.ended, LIMIT)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), LIMIT)


# Letting go.


def test_a_detached_template_lives_on_with_its_new_owner(link):
    pid = link.pid()
    sock = link.detach()
    assert link.why_closed() == "it was detached"
    assert link.wait(LIMIT) == "it was detached"

    again = Link(program.current(), sock, pid=None, greeted=True)

    assert again.wait(LIMIT) is None
    assert process_alive(pid)
    again.close()
    wait_until(lambda: again.ended and not process_alive(pid), LIMIT)


def test_an_abandoned_link_has_closed_its_end_and_sends_nothing():
    ours, theirs = socket_pair()
    link = Link(program.current(), ours)
    link.program.ends.pop(link)
    link.program.reactor.unwatch(ours.fileno())

    link.abandon()
    theirs.setblocking(True)
    rest = theirs.recv(100)
    theirs.close()

    assert rest in (b"", wire.GREETING)
    assert ours.fileno() == -1
    assert "forked from the one that owns it" in link.why_closed()
