"""Unit: a gate that opens once, for any number of threads, interrupted or not."""

import threading

import pytest

from forkrpc import gate as gate_module
from forkrpc.gate import Bell, Gate, is_interrupt
from helpers import MS, wait_until
from interrupts import Interrupt, interrupt_everywhere, storm_of_interrupts

LIMIT = 10.0  # seconds; much more than it takes


def test_a_gate_is_closed_at_first():
    gate = Gate()

    assert not gate.is_open()
    assert gate.wait(0) is False


def test_an_open_gate_keeps_nobody_waiting():
    gate = Gate()

    gate.open()

    assert gate.is_open()
    assert gate.wait() is True
    assert gate.wait(0) is True


def test_a_gate_may_be_opened_again():
    gate = Gate()

    gate.open()
    gate.open()

    assert gate.is_open()


def test_waiting_ends_at_the_timeout():
    assert Gate().wait(1 * MS) is False


def test_all_who_wait_are_let_through():
    gate, through = Gate(), []

    def wait():
        through.append(gate.wait(LIMIT))

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(gate._sleepers) == 5)
    gate.open()
    for thread in threads:
        thread.join(LIMIT)

    assert through == [True] * 5


def test_a_gate_that_opens_while_one_arrives_lets_it_through():
    for _ in range(200):
        gate = Gate()
        opener = threading.Thread(target=gate.open)
        opener.start()
        assert gate.wait(LIMIT)
        opener.join()


def test_who_gave_up_keeps_nobody_from_opening():
    gate = Gate()
    gate.wait(0)

    gate.open()

    assert gate.wait(0)


def test_an_interrupt_anywhere_in_waiting_leaves_the_gate_usable():
    def attempt(interrupt):
        gate = Gate()
        with interrupt as raised:
            try:
                gate.wait(0)
            except Interrupt:
                pass
        other = threading.Thread(target=gate.open)
        other.start()
        assert gate.wait(LIMIT)
        other.join(LIMIT)
        assert not other.is_alive()
        return raised

    assert interrupt_everywhere(attempt, gate_module) > 10


def test_an_interrupt_anywhere_in_opening_can_be_made_good_by_opening_again():
    def attempt(interrupt):
        gate = Gate()
        gate.wait(0)
        with interrupt as raised:
            try:
                gate.open()
            except Interrupt:
                pass
        gate.open()
        assert gate.wait(0)
        return raised

    assert interrupt_everywhere(attempt, gate_module) > 5


def test_a_storm_of_interrupts_ends_no_wait_for_good():
    gate = Gate()
    timer = threading.Timer(50 * MS, gate.open)
    timer.start()
    opened = False

    with storm_of_interrupts(gate_module):
        while not opened:
            try:
                opened = gate.wait(LIMIT)
            except Interrupt:
                continue

    timer.join(LIMIT)
    assert opened


# A bell.


def test_who_comes_behind_the_bell_does_not_wait():
    bell = Bell()
    bell.put(None)

    assert bell.wait(None)


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, -1, 5e-3])
def test_a_wait_ends_when_its_time_is_over(timeout):
    for _ in range(10):
        assert not Bell().wait(timeout)


def test_any_length_of_time_may_be_waited():
    bell = Bell()
    threading.Timer(0.01, bell.put, [None]).start()

    assert bell.wait(float("inf"))


# What came from outside.


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (KeyboardInterrupt(), True),
        (SystemExit(), False),
        (ValueError(), False),
        (Interrupt(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_ctrl_c_comes_from_outside(error, is_one):
    assert is_interrupt(error) is is_one


def test_python_interrupts_no_other_thread():
    told = []
    thread = threading.Thread(
        target=lambda: told.append(is_interrupt(KeyboardInterrupt()))
    )
    thread.start()
    thread.join(LIMIT)

    assert told == [False]
