"""Unit: in which cell of a notebook a call was made."""

import contextvars
import sys
from collections import deque

import pytest

from forkrpc.cells import Cells, in_notebook

CELL = contextvars.ContextVar("CELL")


class Session:
    """Counts calls as the real one does."""

    def __init__(self):
        self.sent = 0
        self.queued = 0
        self.pending = deque()

    def outstanding(self):
        return self.queued + len(self.pending)

    def head(self):
        return self.sent - len(self.pending) + 1 if self.pending else 0


class File:
    parent_header = None


@pytest.fixture
def notebook(monkeypatch):
    """A function that makes a call in a cell: notebook(cells, "name")."""
    file = File()

    def call(cells, name):
        monkeypatch.setattr(sys, "stdout", file)  # pytest has put another there
        if (file.parent_header or {}).get("id") != name:
            file.parent_header = {"id": name}
        context = contextvars.copy_context()
        context.run(CELL.set, name)
        context.run(cells.note_call)
        cells._session.queued += 1

    return call


def send(session):
    session.pending.extend([None] * session.queued)
    session.sent += session.queued
    session.queued = 0


def cell_of(cells, call_id):
    context = cells.context_of(call_id)
    return None if context is None else context[CELL]


def test_each_call_belongs_to_the_cell_that_made_it(notebook):
    session = Session()
    cells = Cells(session)
    for name in "aabbb":
        notebook(cells, name)
    send(session)
    notebook(cells, "b")
    notebook(cells, "c")
    send(session)

    assert [cell_of(cells, n) for n in range(1, 8)] == list("aabbbbc")


def test_what_no_call_said_belongs_to_the_oldest_cell_at_work(notebook):
    session = Session()
    cells = Cells(session)
    assert cell_of(cells, 0) is None
    for name in "ab":
        notebook(cells, name)
    send(session)

    assert cell_of(cells, 0) == "a"


def test_cells_whose_calls_are_all_answered_are_forgotten(notebook):
    session = Session()
    cells = Cells(session)
    for name in "abcd":
        notebook(cells, name)
        send(session)
        assert cell_of(cells, session.sent) == name
        session.pending.clear()

    assert len(cells._marks) == 1
    assert cell_of(cells, 4) == "d"


def test_an_earlier_call_is_still_found_while_it_has_no_answer(notebook):
    session = Session()
    cells = Cells(session)
    for name in "abc":
        notebook(cells, name)
    send(session)

    assert [cell_of(cells, n) for n in (3, 1, 2, 3)] == list("cabc")


def test_a_context_may_be_in_use_while_it_is_asked_for_again(notebook):
    cells = Cells(Session())
    notebook(cells, "a")

    nested = cells.context_of(1).run(lambda: cells.context_of(1).run(CELL.get))

    assert nested == "a"


def test_a_program_is_a_notebook_where_the_kernel_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not in_notebook()

    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert in_notebook()
