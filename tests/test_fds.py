"""Unit: bytes and descriptors through a socket, partly, blocked and interrupted."""

import contextlib
import errno
import fcntl
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import fds, wire
from forkrpc.decoder import Decoder
from helpers import MS, open_descriptors, run_program
from interrupts import Interrupt, interrupt_everywhere, storm_of_interrupts


@contextlib.contextmanager
def connected():
    """Two connected sockets that do not block."""
    one, other = fds.socket_pair()
    with contextlib.closing(one), contextlib.closing(other):
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture
def pair():
    with connected() as sockets:
        yield sockets


def new_pipes(count):
    """Return read ends of new pipes, each with its number in it, and nothing behind."""
    ends = []
    for number in range(count):
        read, write = os.pipe()
        os.write(write, str(number).encode())
        os.close(write)
        ends.append(read)
    return ends


def contents(handles):
    """Return the numbers in pipes from `new_pipes`; closes them."""
    found = [int(os.read(fd, 10)) for fd in handles]
    fds.close_all(handles)
    return found


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def read_available(sock):
    pieces = []
    try:
        while piece := sock.recv(1 << 20):
            pieces.append(piece)
    except BlockingIOError:
        pass
    return b"".join(pieces)


class Reluctant:
    """A socket that takes so many bytes at a time; 0: it would block."""

    def __init__(self, takes):
        self._takes = iter(takes)
        self.taken = b""

    def send(self, view, _flags):
        size = next(self._takes, len(view))
        if not size:
            raise BlockingIOError
        self.taken += bytes(view[:size])
        return min(size, len(view))

    def sendmsg(self, views, _extra, flags):
        return self.send(b"".join(views), flags)

    def setsockopt(self, *_):
        pass


# Outbox.


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=8),
    st.lists(st.integers(0, 12), max_size=40),
)
def test_frames_leave_in_order_and_once_however_little_is_taken(frames, takes):
    sock = Reluctant(takes)
    outbox = fds.Outbox(sock)
    for frame in frames:
        outbox.put(frame)

    while not outbox.flush():
        assert outbox.frames

    assert sock.taken == b"".join(frames)
    assert not outbox.frames


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=30),
            st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4),
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 40), max_size=40),
    st.integers(1, 40),
)
def test_frames_in_pieces_leave_in_order_and_once(frames, takes, gathered):
    sock = Reluctant(takes)
    outbox, number = fds.Outbox(sock), fds.deque()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "GATHERED", gathered)
        patch.setattr(fds, "MOST_COUNTS", 3)
        for at, frame in enumerate(frames):
            if isinstance(frame, bytes):
                outbox.put(frame)
            elif at % 2:
                outbox.put(list(map(memoryview, frame)))
            else:
                outbox.write(list(map(memoryview, frame)), (number,), at)

        while not outbox.flush():
            assert outbox.frames

    expected = [x if isinstance(x, bytes) else b"".join(x) for x in frames]
    assert sock.taken == b"".join(expected)
    assert not outbox.frames


def test_a_large_piece_is_written_together_with_what_is_before_it(pair):
    ours, theirs = pair

    class Counted:
        sends, sendmsg, setsockopt = 0, ours.sendmsg, ours.setsockopt

        def send(self, view, flags):
            self.sends += 1
            return ours.send(view, flags)

    sock = Counted()
    outbox = fds.Outbox(sock)
    large = bytes(range(256)) * 300

    assert outbox.write([b"head", memoryview(large), large], (), ())

    assert sock.sends == 0
    assert read_available(theirs) == b"head" + large + large


def test_pieces_behind_a_frame_with_descriptors_do_not_go_with_them(pair):
    ours, theirs = pair
    outbox, handles = fds.Outbox(ours), new_pipes(1)
    outbox.put(b"first", handles)
    outbox.put([b"head", b"x" * 100_000])
    assert outbox.flush()

    reader = fds.HandleReader(theirs)
    data = reader(1 << 20)
    while len(data) < 100_009:
        data += reader(1 << 20)

    assert data == b"firsthead" + b"x" * 100_000
    assert contents(reader.claim(1)) == [0]


def test_what_was_not_written_can_be_made_ones_own(pair):
    ours, theirs = pair
    outbox, array = fds.Outbox(ours), bytearray(b"x" * 3_000_000)
    assert not outbox.write([b"head", memoryview(array)], (), ())

    outbox.own()
    array[:] = b"y" * len(array)
    found = b""
    while not outbox.flush():
        found += read_available(theirs)
    found += read_available(theirs)

    assert found == b"head" + b"x" * 3_000_000


def test_a_full_socket_is_told_and_nothing_is_lost(pair):
    ours, theirs = pair
    outbox = fds.Outbox(ours)
    frames = [bytes([number]) * 300_000 for number in range(12)]
    for frame in frames:
        outbox.put(frame)

    blocked = not outbox.flush()
    received = read_available(theirs)
    while not outbox.flush():
        received += read_available(theirs)
    received += read_available(theirs)

    assert blocked
    assert received == b"".join(frames)


def test_an_empty_outbox_has_nothing_left_to_write(pair):
    assert fds.Outbox(pair[0]).flush()


def test_descriptors_are_closed_once_they_are_sent(pair):
    ours, theirs = pair
    outbox, handles = fds.Outbox(ours), new_pipes(2)
    reader = fds.HandleReader(theirs)

    outbox.put(b"frame", handles)
    kept = [is_open(fd) for fd in handles]
    outbox.flush()

    assert kept == [True, True]
    assert [is_open(fd) for fd in handles] == [False, False]
    assert reader(100) == b"frame"
    assert contents(reader.claim(2)) == [0, 1]


def test_descriptors_that_wait_for_a_full_socket_stay_open_and_are_sent_once(pair):
    ours, theirs = pair
    outbox, handles = fds.Outbox(ours), new_pipes(1)
    reader = fds.HandleReader(theirs)
    outbox.put(bytes(1_000_000))
    outbox.put(b"frame", handles)

    assert not outbox.flush()
    assert is_open(handles[0])
    while not outbox.flush():
        reader(1 << 20)
    closed = not is_open(handles[0])
    rest = b""
    while not rest.endswith(b"frame"):
        rest += reader(1 << 20)

    assert closed
    assert len(reader.handles) == 1
    assert contents(reader.claim(1)) == [0]


def test_descriptors_go_with_the_first_byte_of_a_frame_that_is_taken_in_parts(pair):
    ours, theirs = pair
    outbox = fds.Outbox(ours)
    reader = fds.HandleReader(theirs)
    outbox.put(bytes(1_000_000), new_pipes(1))

    assert not outbox.flush()
    received = len(reader(1))
    assert contents(reader.claim(1)) == [0]
    while not outbox.flush():
        received += len(reader(1 << 20))
    received += len(read_available(theirs))

    assert received == 1_000_000
    assert not reader.handles


def test_clearing_forgets_what_was_not_written_and_closes_its_descriptors(pair):
    ours, theirs = pair
    outbox, handles = fds.Outbox(ours), new_pipes(2)
    outbox.put(bytes(1_000_000))
    outbox.put(b"one", handles[:1])
    outbox.put(b"two", handles[1:])
    outbox.flush()
    read_available(theirs)

    outbox.clear()
    outbox.put(b"next")
    outbox.flush()

    assert [is_open(fd) for fd in handles] == [False, False]
    assert read_available(theirs) == b"next"


def test_a_peer_that_is_gone_is_an_oserror_and_no_signal(pair):
    ours, theirs = pair
    outbox, handles = fds.Outbox(ours), new_pipes(1)
    theirs.close()
    outbox.put(b"frame", handles)

    with pytest.raises(BrokenPipeError):
        outbox.flush()
    outbox.clear()

    assert not is_open(handles[0])


def in_spite_of_interrupts(function):
    while True:
        try:
            return function()
        except Interrupt:
            continue


def test_an_interrupt_at_any_bytecode_of_writing_writes_nothing_twice():
    frames = [b"1", b"22" * 100, b"333"]

    def attempt(interrupt):
        with connected() as (ours, theirs):
            outbox = fds.Outbox(ours)
            for frame in frames:
                outbox.put(frame)
            with interrupt as raised:
                in_spite_of_interrupts(outbox.flush)
            assert read_available(theirs) == b"".join(frames)
        return raised

    assert interrupt_everywhere(attempt, fds) > 20


def test_an_interrupt_at_any_bytecode_of_writing_pieces_writes_nothing_twice(
    monkeypatch,
):
    monkeypatch.setattr(fds, "GATHERED", 10)
    monkeypatch.setattr(fds, "MOST_COUNTS", 2)
    pieces = [b"head", memoryview(b"x" * 20), b"y" * 15]

    def attempt(interrupt):
        sock, queue = Reluctant([3, 5, 2, 9, 0, 7]), fds.deque()
        outbox = fds.Outbox(sock)
        with interrupt as raised:
            try:
                outbox.write(pieces, (queue,), 7)
            except Interrupt:
                if not queue:
                    outbox.write(pieces, (queue,), 7)
            while outbox.frames:
                in_spite_of_interrupts(outbox.flush)
        assert sock.taken == b"".join(pieces)
        assert list(queue) == [7]
        return raised

    assert interrupt_everywhere(attempt, fds) > 50


def test_a_storm_of_interrupts_writes_nothing_twice(pair):
    ours, theirs = pair
    frames = [bytes([number % 256]) * 900 for number in range(20)]
    times = rounds = 0

    while times < 30 and rounds < 5000:
        outbox = fds.Outbox(ours)
        for frame in frames:
            outbox.put(frame)
        with storm_of_interrupts(fds, MS / 10) as raised:
            in_spite_of_interrupts(outbox.flush)
        times += len(raised)
        rounds += 1

        assert read_available(theirs) == b"".join(frames)


def test_an_interrupt_at_any_bytecode_of_writing_leaks_no_descriptor():
    def attempt(interrupt):
        with connected() as (ours, theirs):
            before = len(open_descriptors())
            outbox = fds.Outbox(ours)
            outbox.put(b"frame", new_pipes(2))
            with interrupt as raised:
                in_spite_of_interrupts(outbox.flush)
                in_spite_of_interrupts(outbox.clear)
            reader = fds.HandleReader(theirs)
            data = reader(100)
            handles = reader.claim(len(reader.handles))
            assert (data, contents(handles)) == (b"frame", [0, 1])
            assert len(open_descriptors()) == before
        return raised

    assert interrupt_everywhere(attempt, fds) > 20


# HandleReader.


def test_descriptors_arrive_in_order_with_their_frames(pair):
    ours, theirs = pair
    outbox = fds.Outbox(ours)
    counts = [0, 2, 1, 0, 3]
    pipes = new_pipes(sum(counts))
    decoder, reader = Decoder(greeted=True), fds.HandleReader(theirs)
    for number, count in enumerate(counts):
        own = [pipes.pop(0) for _ in range(count)]
        data = wire.encode(wire.RUN, bytes(number), handles=count, first=number)
        outbox.put(data, own)

    outbox.flush()
    claimed = []
    while len(claimed) < len(counts):
        decoder.receive(reader)
        while decoder.frames:
            frame = decoder.frames.popleft()
            claimed.append(contents(reader.claim(frame.handles)))

    assert claimed == [[], [0, 1], [2], [], [3, 4, 5]]


def test_as_many_descriptors_arrive_as_one_frame_may_have(pair):
    ours, theirs = pair
    outbox, reader = fds.Outbox(ours), fds.HandleReader(theirs)

    outbox.put(b"frame", new_pipes(fds.MOST_HANDLES))
    outbox.flush()

    assert reader(100) == b"frame"
    assert contents(reader.claim(fds.MOST_HANDLES)) == list(range(fds.MOST_HANDLES))


def test_a_reader_reads_as_recv_does(pair):
    ours, theirs = pair
    reader = fds.HandleReader(theirs)

    with pytest.raises(BlockingIOError):
        reader(10)
    ours.send(b"abcdef")
    pieces = [reader(4), reader(4)]
    ours.shutdown(socket.SHUT_WR)

    assert pieces == [b"abcd", b"ef"]
    assert reader(4) == b""


def test_descriptors_that_arrive_are_not_inherited_by_programs(pair):
    ours, theirs = pair
    outbox, reader = fds.Outbox(ours), fds.HandleReader(theirs)

    outbox.put(b"frame", new_pipes(1))
    outbox.flush()
    reader(100)
    (fd,) = reader.claim(1)

    assert not os.get_inheritable(fd)
    os.close(fd)


def test_descriptors_that_do_not_fit_the_table_are_an_error_and_none_leaks():
    done = run_program(
        """
        import os, resource
        from forkrpc import fds

        ours, theirs = fds.socket_pair()
        outbox, reader = fds.Outbox(ours), fds.HandleReader(theirs)
        outbox.put(b"frame", [os.dup(0) for _ in range(4)])
        outbox.flush()
        highest = os.dup(0)
        os.close(highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, highest + 2))
        try:
            reader(100)
        except OSError as error:
            print(error.errno, error.strerror)
        fds.close_all(reader.claim(len(reader.handles)))
        os.dup(0)
        print(os.dup(0) - highest)
        """
    )

    assert done.stdout.splitlines() == [
        f"{errno.EMFILE} descriptors sent to this process did not fit its table",
        "1",
    ]


# Numbers.


def test_a_number_above_2_stays_as_it_is():
    (fd,) = new_pipes(1)

    assert fds.above_stdio(fd) == fd
    assert contents([fd]) == [0]


def test_a_duplicate_is_not_inherited_and_the_original_stays():
    (fd,) = new_pipes(1)

    twin = fds.duplicate(fd, 50)

    assert twin >= 50
    assert fcntl.fcntl(twin, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert contents([twin]) == [0]
    os.close(fd)


def test_the_sockets_of_a_pair_are_connected_and_not_inherited(pair):
    ours, theirs = pair

    ours.send(b"there")
    theirs.send(b"back")

    assert (theirs.recv(10), ours.recv(10)) == (b"there", b"back")
    assert not os.get_inheritable(ours.fileno())
    assert not os.get_inheritable(theirs.fileno())


def test_closing_all_closes_each():
    handles = new_pipes(3)

    fds.close_all(handles)

    assert [is_open(fd) for fd in handles] == [False] * 3


def run_without_stdio(source):
    """Run *source* with 0-2 closed; return the lines given to its `report`."""
    (read, write) = os.pipe()
    program = f"import os\nfor fd in 0, 1, 2: os.close(fd)\n{source}"
    prefix = (
        f"def report(*values): os.write({write}, (repr(values) + '\\n').encode())\n"
    )
    try:
        run_program(prefix + program, pass_fds=[write])
    finally:
        os.close(write)
    with open(read) as file:
        return file.read().splitlines()


def test_a_program_without_stdio_gets_sockets_above_it():
    lines = run_without_stdio(
        "from forkrpc import fds\n"
        "one, other = fds.socket_pair()\n"
        "one.send(b'there')\n"
        "cloexec = not any(os.get_inheritable(s.fileno()) for s in (one, other))\n"
        "report(min(one.fileno(), other.fileno()) > 2, other.recv(9), cloexec)\n"
        "report([os.dup(one.fileno()) for _ in range(3)])\n"
    )

    assert lines == ["(True, b'there', True)", "([0, 1, 2],)"]


def test_a_program_without_stdio_moves_a_number_above_it_and_frees_the_low_one():
    lines = run_without_stdio(
        "from forkrpc import fds\n"
        "low = os.open(os.devnull, os.O_RDWR)\n"
        "high = fds.above_stdio(low)\n"
        "report(low, high > 2, os.get_inheritable(high))\n"
        "report(os.dup(high))\n"
    )

    assert lines == ["(0, True, False)", "(0,)"]


def test_a_program_without_stdio_receives_descriptors_above_it():
    lines = run_without_stdio(
        "from forkrpc import fds\n"
        "one, other = fds.socket_pair()\n"
        "outbox, reader = fds.Outbox(one), fds.HandleReader(other)\n"
        "handles = [fds.duplicate(one.fileno()) for _ in range(3)]\n"
        "outbox.put(b'frame', handles)\n"
        "outbox.flush()\n"
        "reader(100)\n"
        "report(len(reader.handles), min(reader.handles) > 2)\n"
        "report([os.dup(one.fileno()) for _ in range(3)])\n"
    )

    assert lines == ["(3, True)", "([0, 1, 2],)"]
