"""Contract: the pipe behind a forwarded descriptor."""

import os
import queue
import threading

import pytest

from forkrpc import pipe, wire
from forkrpc.program import current
from helpers import open_descriptors, wait_until


@pytest.fixture
def made():
    made = pipe.Pipe(current(), wire.STDERR)
    made.frames = queue.SimpleQueue()
    made.on_data = made.frames.put
    made.read_before = lambda: None
    yield made
    in_reactor(made.close)


def in_reactor(function):
    done = threading.Event()
    current().reactor.soon(lambda: (function(), done.set()))
    assert done.wait(5)


def test_what_is_written_comes_as_frames_and_the_end_as_an_empty_one(made):
    writer = made.take_writer()
    os.write(writer, b"one")
    first = made.frames.get(timeout=5)
    os.write(writer, b"two")
    os.close(writer)

    assert (first.kind, first.flags) == (wire.OUTPUT, wire.STDERR | wire.PIPED)
    assert [first.body, made.frames.get(timeout=5).body] == [b"one", b"two"]
    assert made.frames.get(timeout=5).body == b""
    wait_until(lambda: made not in current().ends)


def test_the_rest_is_read_at_once_and_an_open_end_is_not_waited_for(made):
    writer = made.take_writer()
    bodies = []

    def write_and_read():
        made.on_data = lambda frame: bodies.append(frame.body)
        os.write(writer, b"x" * 60_000)
        made.read_rest()
        made.read_rest()

    in_reactor(write_and_read)

    assert b"".join(bodies) == b"x" * 60_000
    os.close(writer)


def test_a_writer_that_never_ends_does_not_hold_up_the_reactor(made):
    writer = made.take_writer()
    sizes = []

    def refill(frame):
        sizes.append(len(frame.body))
        os.write(writer, b"y" * 60_000)

    def endless():
        made.on_data = refill
        os.write(writer, b"y" * 60_000)
        made.read_rest()
        made.on_data = made.frames.put

    in_reactor(endless)

    assert pipe.MOST <= sum(sizes) <= pipe.MOST + pipe.AT_ONCE
    os.close(writer)


def test_close_closes_both_ends_unless_one_was_taken():
    before = open_descriptors()
    one, other = (pipe.Pipe(current(), wire.STDOUT) for _ in range(2))
    writer = other.take_writer()

    in_reactor(one.close)
    in_reactor(one.close)
    in_reactor(other.close)

    os.close(writer)
    assert open_descriptors() == before


def test_a_copy_of_the_program_lets_go_of_it():
    before = open_descriptors()
    made = pipe.Pipe(current(), wire.STDOUT)
    current().reactor.unwatch(made._fd)
    current().ends.pop(made)

    made.abandon()
    made.abandon()

    assert open_descriptors() == before


def test_nothing_of_it_is_waited_for_at_the_end_of_the_program(made):
    made.close_at_exit()
    made.kill_at_exit()

    assert made.outstanding() == 0
    assert made.wait_for_end(0)
