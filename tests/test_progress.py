"""Unit: the page that a worker and the parent share, and who gets which."""

import math
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import progress
from helpers import open_descriptors, run_program

WORDS = (progress.BEGUN, progress.SINCE, progress.HELD)


@pytest.fixture
def arena():
    arena = progress.Arena()
    yield arena
    arena.close()


@pytest.fixture
def page(arena):
    page = arena.take()
    yield page
    page.release()


@pytest.fixture(scope="module")
def lasting_page():
    """A page for hypothesis, which does not reset fixtures between examples."""
    return progress.Page(memoryview(bytearray(progress.BLOCK)))


numbers = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
slots = st.integers(0, progress.SLOTS - 1)


def same(one, other):
    """Whether two numbers are the same object for all purposes: type, sign, NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.isnan(one) and math.isnan(other) or repr(one) == repr(other)
    return one == other


# Results in a page.


@given(slot=slots, value=numbers)
def test_a_number_is_kept_as_it_is(lasting_page, slot, value):
    assert lasting_page.keep(slot, value)

    ((is_body, found),) = lasting_page.kept(slot, slot + 1)

    assert not is_body
    assert same(found, value)


class Number(int):
    pass


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**100])
def test_a_number_of_more_than_64_bits_is_refused(page, value):
    assert not page.keep(0, value)


@pytest.mark.parametrize("value", ["1", b"1", (), 1j, Number(1), object()])
def test_what_is_no_number_is_not_kept_as_one(value):
    assert type(value) not in progress.NUMBERS


@pytest.mark.parametrize("value", [None, True, 7, 1.5])
def test_results_of_one_type_need_no_tags(page, value):
    page.keep(0, 3)  # a tag of an earlier use
    page.begin(1, type(value))
    slots = page.slots_of(type(value))
    slots[0] = slots[1] = value

    found = page.kept(0, 2)

    assert all(same(one, value) for _, one in found)
    assert len(found) == 2


def test_results_of_one_type_are_told_apart_from_others_behind_them(page):
    page.begin(1, float)
    page.slots_of(float)[0] = 0.5
    page.tell_apart(1)
    page.keep(1, 7)
    page.keep_body(2, b"body", 0)

    assert page.kept(0, 3) == [(False, 0.5), (False, 7), (True, b"body")]


def test_bodies_of_one_kind_are_told_apart_from_a_number_behind_them(page):
    page.begin(1, bytes)
    page.keep_body(0, b"body", 0)
    page.tell_apart(1)
    page.keep(1, None)

    assert page.kept(0, 2) == [(True, b"body"), (False, None)]


@given(st.lists(numbers, min_size=1, max_size=20), st.data())
def test_the_kept_numbers_of_a_range_come_in_order(lasting_page, values, data):
    first = data.draw(st.integers(0, progress.SLOTS - len(values)))
    for slot, value in enumerate(values, first):
        lasting_page.keep(slot, value)

    found = lasting_page.kept(first, first + len(values))

    assert all(same(one, value) for (_, one), value in zip(found, values, strict=True))


@given(slots, st.binary(max_size=progress.LONGEST_BODY), st.data())
def test_a_body_is_kept_as_it_is(lasting_page, slot, body, data):
    at = data.draw(st.integers(0, progress.DATA_BYTES - len(body)))

    assert lasting_page.keep_body(slot, body, at)

    assert lasting_page.kept(slot, slot + 1) == [(True, body)]


def test_bodies_and_numbers_stand_beside_each_other(page):
    page.keep(0, 1.5)
    page.keep_body(1, b"first", 0)
    page.keep_body(2, b"second", 5)
    page.keep(3, None)

    assert page.kept(0, 4) == [
        *((False, 1.5), (True, b"first"), (True, b"second"), (False, None))
    ]


def test_a_body_that_is_long_or_does_not_fit_the_rest_is_refused(page):
    end = progress.DATA_BYTES

    assert not page.keep_body(0, bytes(progress.LONGEST_BODY + 1), 0)
    assert page.keep_body(0, bytes(progress.LONGEST_BODY), 0)
    assert not page.keep_body(0, b"12", end - 1)
    assert page.keep_body(0, b"1", end - 1)


def test_no_slot_is_read_beyond_the_last(page):
    page.keep(progress.SLOTS - 1, 7)

    assert page.kept(progress.SLOTS - 1, progress.SLOTS + 5) == [(False, 7)]


def test_the_slots_do_not_touch_the_words(page):
    page.words[progress.BEGUN] = 2**64 - 1

    for slot in range(progress.SLOTS):
        page.keep(slot, -1)
    page.keep_body(0, b"\xff" * progress.LONGEST_BODY, 0)

    assert [page.words[word] for word in WORDS] == [2**64 - 1, 0, 0]


# Pages of an arena.


def test_pages_of_one_arena_do_not_overlap(arena):
    pages = [arena.take() for _ in range(progress.BLOCKS)]
    for page in pages:
        page.words[progress.BEGUN] = page.number + 1
        page.keep(progress.SLOTS - 1, page.number)
        page.keep_body(0, page.number.to_bytes(1, "little"), progress.DATA_BYTES - 1)

    found = [
        (page.words[progress.BEGUN], page.kept(progress.SLOTS - 1, 600)[0][1])
        for page in pages
    ]

    assert len({page.number for page in pages}) == progress.BLOCKS
    assert found == [(page.number + 1, page.number) for page in pages]
    for page in pages:
        page.release()


def test_a_page_that_is_used_again_has_words_of_zero(arena):
    page = arena.take()
    for word in WORDS:
        page.words[word] = 7
    page.release()
    arena.free.append(page.number)

    again = arena.take()

    assert again.number == page.number
    assert [again.words[word] for word in WORDS] == [0, 0, 0]
    again.release()


def test_a_worker_writes_what_the_program_reads(arena, page):
    before = open_descriptors()

    handle = page.handle()
    mapped = progress.map_page(handle, page.number)
    os.close(handle)
    mapped.words[progress.BEGUN] = 2**63
    mapped.keep(3, 1.5)
    page.words[progress.SINCE] = 5

    assert page.words[progress.BEGUN] == 2**63
    assert page.kept(3, 4) == [(False, 1.5)]
    assert mapped.words[progress.SINCE] == 5
    assert open_descriptors() == before


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="mmap holds no descriptor")
def test_a_mapping_that_is_not_used_any_more_closes_no_strangers_number():
    done = run_program(
        """
        import gc, os
        from forkrpc import progress

        arena = progress.Arena()
        progress.map_page(arena.fd, 0)
        strangers = [os.dup(0) for _ in range(5)]
        gc.collect()
        print([os.get_inheritable(fd) for fd in strangers])
        """
    )

    assert done.stdout == "[False, False, False, False, False]\n"


def test_what_a_worker_wrote_is_read_after_it_was_killed():
    done = run_program(
        """
        import os, signal
        from forkrpc import progress

        page = progress.Pages().take()
        pid = os.fork()
        if not pid:
            mapped = progress.map_page(page.handle(), page.number)
            mapped.words[progress.BEGUN] = 12
            mapped.keep_body(0, b"body", 0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        print(page.words[progress.BEGUN], page.kept(0, 1))
        """
    )

    assert (done.stdout, done.stderr) == ("12 [(True, b'body')]\n", "")


# What faulthandler writes.


CRASH = """
    import faulthandler, os, signal
    from forkrpc import progress

    def crash(page):
        pid = os.fork()
        if not pid:
            faulthandler.enable(page.handle())
            os.kill(os.getpid(), signal.SIGSEGV)
        os.waitpid(pid, 0)

    pages = progress.Pages()
    one, other = pages.take(), pages.take()
"""


def test_what_faulthandler_writes_is_read_once_and_is_its_workers_own():
    done = run_program(
        f"""{CRASH}
    crash(one)
    texts = [one.crash(), one.crash(), other.crash()]
    print([text.partition("\\n")[0] for text in texts])
    crash(one)
    again = one.crash()
    print(again[:40] == texts[0][:40], again.endswith("in <module>\\n"))
    """
    )

    assert done.stderr == ""
    assert (
        done.stdout == "['Fatal Python error: Segmentation fault', '', '']\nTrue True\n"
    )


def test_a_short_stack_after_a_long_one_has_nothing_of_it(page):
    fd = page.handle()
    os.write(fd, b"long " * 100_000)
    page.crash()

    os.lseek(fd, -500_000, os.SEEK_CUR)
    os.write(fd, b"short")

    assert page.crash() == "short"
    os.close(fd)


def test_no_stack_reaches_the_room_of_the_next_worker():
    longest = 100 * 100 * (2 * 500 + 100)  # threads, frames, bytes of a line

    assert longest < progress.CRASH_ROOM
    assert progress.BLOCK * progress.BLOCKS <= progress.CRASH_ROOM


# All pages of a program.


@pytest.fixture
def pages():
    """Pages that the test all gives back."""
    made = progress.Pages()
    yield made
    close_last_arena(made)


def arenas_open():
    """Return the numbers of the descriptors of arenas."""
    return {fd for fd, target in open_descriptors().items() if "memfd:" in target}


def test_an_arena_is_opened_when_there_is_no_free_page(pages):
    before = len(arenas_open())

    taken = [pages.take()]
    first = len(arenas_open())
    taken += [pages.take() for _ in range(progress.BLOCKS - 1)]
    full = len(arenas_open())
    taken.append(pages.take())
    more = len(arenas_open())

    assert before < first == full < more
    for page in taken:
        pages.give_back(page)


def test_one_arena_is_kept_when_all_pages_are_given_back(pages):
    taken = [pages.take() for _ in range(3 * progress.BLOCKS)]
    three = arenas_open()
    for page in taken:
        pages.give_back(page)
    one = arenas_open()

    again = pages.take()

    assert len(one) < len(three)
    assert arenas_open() == one
    assert again.fd in one
    pages.give_back(again)


@given(st.lists(st.integers(-1, 200), max_size=100))
def test_no_page_is_given_out_twice(steps):
    pages, taken = progress.Pages(), []
    for step in [*steps, *[-1] * 100]:
        if step >= 0 or not taken:
            taken += [pages.take() for _ in range(max(1, step // 3))]
        else:
            pages.give_back(taken.pop(len(taken) // 2))
        places = {(page.fd, page.number) for page in taken}
        assert len(places) == len(taken)
    for page in taken:
        pages.give_back(page)
    close_last_arena(pages)


def close_last_arena(pages):
    """Close what `pages` keeps for the next worker, its mapping too."""
    page = pages.take()
    arena = page.arena
    page.release()
    arena.close()


def test_a_page_that_cannot_be_had_is_an_oserror():
    done = run_program(
        """
        import os, resource
        from forkrpc.progress import Pages

        pages = Pages()
        highest = os.dup(0)
        os.close(highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
        try:
            pages.take()
        except OSError as error:
            print(error.strerror)
        """
    )

    assert done.stdout == "Too many open files\n"


def test_without_memfd_the_memory_is_a_file_without_a_name(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    arena = progress.Arena()
    page = arena.take()
    page.words[progress.BEGUN] = 3

    assert list(tmp_path.iterdir()) == []
    assert page.words[progress.BEGUN] == 3
    page.release()
    arena.close()


# What asynchronous workers hold: in any order, each with the id of its call.


def hold(page, *results):
    """Hold results as a worker does: (call id, value, or body as bytes)."""
    at = progress.IDS_BYTES
    for slot, (call_id, value) in enumerate(results):
        if isinstance(value, bytes):
            assert page.keep_body(slot, value, at)
            at += len(value)
        else:
            assert page.keep(slot, value)
        page.ids[slot] = call_id
        page.words[progress.HELD] = slot + 1


def test_scattered_results_are_found_with_their_calls(page):
    hold(page, (9, 1), (2, b"body"), (2**63, None), (3, 2.5))

    assert page.scattered(alive=True) == [
        *((9, False, 1), (2, True, b"body"), (2**63, False, None), (3, False, 2.5))
    ]


def test_nothing_is_found_where_nothing_is_held(page):
    assert page.scattered(alive=True) == []


def test_slots_that_are_used_anew_meanwhile_are_not_believed(page, monkeypatch):
    hold(page, (9, 1))

    class Changing:
        """The ids, while the worker goes on."""

        def __getitem__(self, _):
            page.words[progress.TURN] += 1
            return memoryview(bytearray(8)).cast("Q")

    monkeypatch.setattr(progress.Page, "ids", Changing(), raising=False)
    assert page.scattered(alive=True) == []
