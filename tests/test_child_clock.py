"""Unit: when results have to leave, with a told clock."""

from forkrpc.child import clock as clock_module
from forkrpc.child.clock import QUICK, STRIDE, Clock


def test_the_clock_is_not_looked_at_behind_each_quick_call(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock_module, "monotonic", lambda: now[0])
    clock = Clock(1)

    assert clock.look_at == 1
    now[0] += 1e-6
    assert not clock.late(1, 0.0)
    assert clock.look_at == 1 + STRIDE


def test_a_slow_call_has_results_leave_and_is_followed_closely(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock_module, "monotonic", lambda: now[0])
    clock = Clock(1)

    now[0] += 2 * QUICK

    assert clock.late(1, 200.0)
    assert clock.look_at == 2


def test_results_leave_at_their_deadline_however_quick_the_calls(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock_module, "monotonic", lambda: now[0])
    clock = Clock(1)

    now[0] += 1e-6

    assert clock.late(1, 100.0)
    assert not clock.late(2, 0.0)
