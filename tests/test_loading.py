"""Unit: loading what a worker has answered."""

import pickle
import threading

import pytest

import faulty
from forkrpc import ProtocolError, RemoteError, SerialiserError, outcome, wire
from forkrpc.loading import Failure, Loader
from forkrpc.serialisers import codec

GARBAGE = b"\x80\x05garbage"


def interrupt(*_):
    raise KeyboardInterrupt


class Interrupts:
    """Is interrupted when it is loaded."""

    def __reduce__(self):
        return interrupt, ()


class Telling(Exception):
    """Its attribute `call` raises."""

    @property
    def call(self):
        raise ValueError("no call")


class Empty(Exception):
    """Is false."""

    def __len__(self):
        return 0


class Endless(Exception):
    def __len__(self):
        raise ValueError("no end")


def loader(serialiser="pickle"):
    return Loader("m.f", codec(serialiser, lambda definition: None))


def frame(kind, body, *, flags=0, count=1, first=1):
    return wire.Frame(kind, flags, 0, count, first, body)


def several(kind, *bodies, first=1):
    """Return the frame of these bodies as it arrives."""
    data = wire.encode_bodies(kind, list(bodies), first=first)
    return frame(kind, data[wire.HEADER_BYTES :], count=len(bodies), first=first)


def packed_error(error):
    codec_ = codec("pickle", lambda definition: None)
    return pickle.dumps(outcome.pack(error, lambda chain: codec_.dump((chain,))))


def test_packed_results_are_one_list():
    body = pickle.dumps([1, None, "three"])

    results = loader().results(frame(wire.RESULT, body, flags=wire.PACKED, count=3))

    assert results == [1, None, "three"]


@pytest.mark.parametrize("body", [GARBAGE, b"", pickle.dumps(1), pickle.dumps([1, 2])])
def test_packed_results_that_are_none_break_the_protocol(body):
    with pytest.raises(ProtocolError):
        loader().results(frame(wire.RESULT, body, flags=wire.PACKED, count=3))


def test_each_body_is_an_outcome_and_a_bad_one_costs_its_own_call():
    bodies = [pickle.dumps((1,)), GARBAGE, pickle.dumps((3,))]

    one, two, three = loader().outcomes(several(wire.RESULT, *bodies, first=5))

    assert (one, three) == (1, 3)
    assert type(two) is Failure
    assert str(two.error).startswith("the result of m.f cannot be loaded: Unpickling")
    assert two.error.call == "call 6 of m.f"


def test_errors_are_failures_that_name_their_calls():
    bodies = [packed_error(KeyError("one")), packed_error(faulty.TwoArguments(1, 2))]

    one, two = loader().outcomes(several(wire.ERROR, *bodies, first=3))

    assert (type(one.error), one.error.call) == (KeyError, "call 3 of m.f")
    assert (type(two.error), two.error.call) == (RemoteError, "call 4 of m.f")


def test_an_error_that_does_not_load_is_a_serialiser_error():
    failure = loader().error(GARBAGE, 7)

    assert type(failure.error) is SerialiserError
    assert "the exception of m.f cannot be loaded" in str(failure.error)


def test_an_exception_whose_attributes_raise_arrives():
    (failure,) = loader().outcomes(frame(wire.ERROR, packed_error(Telling("text"))))

    assert type(failure.error) is Telling


@pytest.mark.parametrize("kind", [Empty, Endless])
def test_a_cause_that_is_false_is_a_cause(kind):
    error = KeyError("text")
    error.__cause__ = kind("cause")

    (failure,) = loader().outcomes(frame(wire.ERROR, packed_error(error)))

    assert type(failure.error) is KeyError
    assert type(failure.error.__cause__) is kind


@pytest.mark.parametrize("deed", ["raise", "exit", "recurse"])
def test_loading_may_raise_anything(deed):
    body = pickle.dumps((faulty.OnLoad(deed),))

    assert type(loader().result(body, 1)) is Failure
    assert type(loader().event(body)) is Failure


def test_an_interrupt_while_loading_is_no_failure_of_the_call():
    body = pickle.dumps((Interrupts(),))

    with pytest.raises(KeyboardInterrupt):
        loader().result(body, 1)


def test_an_interrupt_raised_by_the_body_in_another_thread_is_one():
    body, found = pickle.dumps((Interrupts(),)), []
    thread = threading.Thread(target=lambda: found.append(loader().result(body, 1)))
    thread.start()
    thread.join()

    assert type(found[0]) is Failure


def test_an_event_is_its_arguments():
    assert loader("json").event(b'["one",2]') == ("one", 2)
    assert loader().event(pickle.dumps(())) == ()
