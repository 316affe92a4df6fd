"""Contract: what user code calls, in a worker and anywhere else."""

import os

import pytest

import forkrpc
from forkrpc import ClosedError, Forker

VERBS = {
    "event": lambda: forkrpc.event(1),
    "flush": forkrpc.flush,
    "retire": forkrpc.retire,
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_program_itself_is_no_worker(verb):
    with pytest.raises(ClosedError, match=rf"forkrpc\.{verb}\(\) works in"):
        VERBS[verb]()

    assert not forkrpc.in_worker()


def state():
    """Return whether this is a worker, and which verbs are refused."""
    refused = []
    for verb in "event", "flush":
        try:
            VERBS[verb]()
        except ClosedError:
            refused.append(verb)
    return forkrpc.in_worker(), refused


def state_in_a_copy():
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, repr(state()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    found = os.read(read, 100).decode()
    os.close(read)
    return found


def keep_state():
    global kept
    kept = state()


def kept_state():
    return kept


def send_events(count):
    for number in range(count):
        forkrpc.event("number", number)
    return forkrpc.flush()


def retire_now():
    forkrpc.retire()
    return "last"


def call(function, *args, **options):
    """Call *function* in a new worker; return its result and the events."""
    events = []
    with Forker().require(__name__) as template:
        proxy = template.run(
            function, on_event=lambda *args: events.append(args), **options
        )
        with proxy:
            result = proxy.call(*args)
    return result, events


def test_a_worker_is_one():
    assert call(state) == ((True, []), [(1,)])


def test_a_copy_that_a_worker_forked_is_none():
    assert call(state_in_a_copy) == ("(False, ['event', 'flush'])", [])


def test_a_worker_is_none_yet_in_init():
    assert call(kept_state, init=keep_state) == ((False, ["event", "flush"]), [])


def test_a_spawned_process_is_none():
    with Forker().require(__name__) as template:
        process = template.spawn(lambda sock: sock.sendall(repr(state()).encode()))
        with process.sock:
            found = process.sock.recv(100)
        process.wait(10)

    assert found == b"(False, ['event', 'flush'])"


def test_events_arrive_in_order_and_flush_tells_that_they_left():
    assert call(send_events, 100) == (True, [("number", n) for n in range(100)])


def test_a_worker_that_retires_answers_and_ends():
    with Forker().require(__name__) as template:
        proxy = template.run(retire_now)
        result = proxy.call()

        assert proxy.join(10)
    assert result == "last"
    assert proxy.returncode == 0
