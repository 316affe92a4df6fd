"""Unit: memory for what is still to come."""

import subprocess
import sys

import pytest

from forkrpc import memory
from forkrpc.memory import HUGE, Room, copy_of
from helpers import CHECKOUT, resident_bytes


@pytest.fixture(params=["usual", "without _ctypes"])
def _found(request, monkeypatch):
    """Run the test also as if there were none of the functions this looks for."""
    monkeypatch.setattr(memory, "_found", [None] if request.param != "usual" else [])


@pytest.mark.usefixtures("_found")
@pytest.mark.parametrize("length", [0, 1, 2, 100, 70_000, HUGE, HUGE + 1, 3 * HUGE])
@pytest.mark.parametrize("writable", [False, True])
def test_what_is_written_is_what_there_is(length, writable):
    expected = bytes(range(256)) * (length // 256 + 1)
    room = Room(length, writable=writable)
    assert len(room.view) == length

    room.view[:] = expected[:length]

    content = room.content()
    assert type(content) is (bytearray if writable else bytes)
    assert content == expected[:length]
    assert hash(bytes(content)) == hash(expected[:length])


@pytest.mark.usefixtures("_found")
def test_a_bytearray_can_be_resized_once_the_room_is_gone():
    room = Room(10, writable=True)
    content = room.content()
    with pytest.raises(BufferError):
        content.append(1)

    del room

    content.append(1)
    assert len(content) == 11


def test_bytes_that_were_made_share_no_memory_with_others():
    rooms = [Room(1, writable=False) for _ in range(3)]
    for number, room in enumerate(rooms):
        room.view[0] = number

    assert [room.content() for room in rooms] == [b"\0", b"\1", b"\2"]
    assert bytes([0]) == b"\0"


@pytest.mark.parametrize("writable", [False, True])
def test_what_nobody_has_memory_for_is_an_error(writable):
    with pytest.raises(MemoryError):
        Room(2**62, writable=writable)


@pytest.mark.parametrize("writable", [False, True])
def test_room_that_is_not_written_to_takes_no_memory(writable):
    before = resident_bytes()
    room = Room(1 << 30, writable=writable)

    assert resident_bytes() - before < 100 << 20
    room.view[-1] = 1


def test_a_copy_is_of_its_own():
    original = bytearray(b"before")

    copy = copy_of(original)
    original[:] = b"behind"

    assert copy == b"before"


def test_ctypes_is_not_loaded():
    source = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
        "from forkrpc.memory import Room\n"
        "Room(1 << 23, writable=False), Room(1 << 23, writable=True)\n"
        "print('ctypes' in sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", source]
    output = subprocess.run(command, check=True, capture_output=True, timeout=30)

    assert output.stdout == b"False\n"
