"""Unit: exceptions that cross from one process to another, whole or as text."""

import builtins
import subprocess
import sys
import threading
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import outcome, serialisers
from forkrpc.errors import RemoteError


def pickled():
    """Return (dump, load) as connections use them."""
    codec = serialisers.codec("pickle", lambda definition: None)
    return lambda value: codec.dump((value,)), lambda body: codec.load(body)[0]


def raised(error, cause=None, *, suppress=False):
    """Return *error* as it is when it was raised in a function called `thrower`."""

    def thrower():
        if cause is not None or suppress:
            raise error from cause
        raise error

    def catcher():
        try:
            thrower()
        except BaseException as found:
            caught.append(found)

    # In a thread of its own: what tests with sys.settrace leave behind as the exception
    # "being handled" (seen on 3.13.0) would become its context.
    caught = []
    thread = threading.Thread(target=catcher)
    thread.start()
    thread.join()
    return caught[0]


def across(error):
    """Return what becomes of *error* on the other side, by pickle."""
    dump, load = pickled()
    return outcome.unpack(outcome.pack(error, dump), load)


def across_plainly(error):
    """The same with a serialiser that is not a pickle."""
    codec = serialisers.codec("data", None)
    (packed,) = codec.load(codec.dump((outcome.pack(error, None),)))
    return outcome.unpack(packed, None)


def shown(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


class TwoArguments(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")
        self.one = one
        self.other = other


class Careful(Exception):
    def __init__(self, one, other):
        super().__init__(one, other)


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("text")
        self.stuck = lambda: (each for each in ())
        self.generator = (each for each in ())


class Unloadable(Exception):
    def __reduce__(self):
        return int, ("no number",)


class Wordless(Exception):
    def __str__(self):
        raise ValueError("no words")


class Fatal(BaseException):
    pass


# By pickle.


def test_type_and_arguments_arrive():
    found = across(raised(ValueError("text", 7)))

    assert type(found) is ValueError
    assert found.args == ("text", 7)


def test_attributes_arrive():
    error = raised(OSError(2, "No such file", "name"))
    error.more = [1]

    found = across(error)

    assert type(found) is FileNotFoundError
    assert (found.errno, found.filename, found.more) == (2, "name", [1])


def test_the_remote_traceback_is_shown_when_it_is_printed():
    text = shown(across(raised(ValueError("text"))))

    assert "in thrower" in text
    assert "raise error" in text
    assert text.rstrip().endswith("ValueError: text")


def test_it_can_be_raised_again_and_shows_both_tracebacks():
    found = across(raised(ValueError("text")))

    with pytest.raises(ValueError, match="text") as caught:
        raise found

    text = shown(caught.value)
    assert "in thrower" in text
    assert "in test_it_can_be_raised_again" in text


def test_its_cause_arrives():
    found = across(raised(ValueError("outer"), KeyError("inner")))

    assert type(found.__cause__) is KeyError
    assert found.__cause__.args == ("inner",)
    assert "direct cause" in shown(found)


def test_its_context_arrives():
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer")  # noqa: B904
    except ValueError as error:
        found = across(error)

    assert type(found.__context__) is KeyError
    assert found.__cause__ is None
    assert "During handling" in shown(found)


def test_a_context_that_was_suppressed_stays_away():
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer") from None
    except ValueError as error:
        found = across(error)

    assert found.__context__ is None or found.__suppress_context__
    assert "KeyError" not in shown(found)


def test_a_chain_of_causes_arrives_in_order():
    error = None
    for number in range(5):
        error = raised(ValueError(number), error)

    found, numbers = across(error), []
    while isinstance(found, ValueError):
        numbers.append(found.args[0])
        found = found.__cause__

    assert numbers == [4, 3, 2, 1, 0]


def test_a_chain_of_any_length_arrives_in_part():
    error = None
    for number in range(200):
        error = raised(ValueError(number), error)

    found, length = across(error), 0
    while isinstance(found, ValueError):
        found, length = found.__cause__, length + 1

    assert length == outcome.LONGEST_CHAIN


def test_a_chain_in_a_circle_arrives():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    found = across(one)

    assert found.args == ("one",)
    assert found.__cause__.args == ("other",)


def test_a_cause_that_cannot_be_pickled_costs_only_itself():
    found = across(raised(ValueError("outer"), Unpicklable()))

    assert type(found) is ValueError
    assert found.args == ("outer",)
    assert "Unpicklable: text" in shown(found)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are of 3.11")
def test_its_notes_arrive_and_are_shown():
    error = raised(ValueError("text"))
    error.add_note("a note")

    found = across(error)

    assert found.__notes__ == ["a note"]
    assert "a note" in shown(found)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are of 3.11")
def test_a_group_arrives_with_its_members():
    group = builtins.ExceptionGroup("several", [ValueError(1), KeyError("key")])

    found = across(raised(group))

    assert type(found) is builtins.ExceptionGroup
    assert [type(each) for each in found.exceptions] == [ValueError, KeyError]


class Reduced(Exception):
    """Pickled without what it has besides its arguments."""

    def __reduce__(self):
        return Reduced, self.args


def test_notes_arrive_that_its_class_does_not_pickle():
    inner, error = Reduced("inner"), Reduced("text")
    inner.__notes__, error.__notes__ = ["of the cause"], ["one", "two"]

    found = across(raised(error, inner))

    assert type(found) is Reduced
    assert found.__notes__ == ["one", "two"]
    assert found.__cause__.__notes__ == ["of the cause"]


def test_what_stands_in_the_place_of_notes_is_no_obstacle():
    error = Reduced("text")
    error.__notes__ = 5

    assert across(raised(error)).args == ("text",)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are of 3.11")
def test_the_members_of_a_group_arrive_with_causes_and_notes():
    first = raised(ValueError(1), KeyError("cause"))
    second = raised(Reduced("second"))
    second.add_note("a note")
    third = raised(ValueError(3), second)  # a cause that is a member too
    deep = builtins.ExceptionGroup("deep", [raised(ValueError(4), OSError("deep"))])
    group = builtins.ExceptionGroup("several", [first, second, third, deep])

    found = across(raised(group))

    first, second, third, deep = found.exceptions
    assert type(first.__cause__) is KeyError
    assert first.__cause__.args == ("cause",)
    assert second.__notes__ == ["a note"]
    assert third.__cause__ is second
    assert deep.exceptions[0].__cause__.args == ("deep",)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are of 3.11")
def test_a_group_that_is_its_own_cause_or_has_very_many_members_arrives():
    members = [raised(ValueError(number), KeyError()) for number in range(500)]
    group = builtins.ExceptionGroup("many", members)
    members[0].__cause__ = group

    found = across(group)

    assert [each.args[0] for each in found.exceptions] == list(range(500))
    assert found.exceptions[0].__cause__ is found


class Refusing(Exception):
    def __setattr__(self, name, value):
        raise TypeError(f"{name} is not to be set")


def test_a_class_that_refuses_attributes_arrives_as_itself():
    error = raised(Refusing("text"), Refusing("inner"))

    found = across(error)
    outcome.name_call(found, "call 1 of f")

    assert type(found) is Refusing
    assert found.args == ("text",)
    assert type(found.__cause__) is Refusing
    assert "in thrower" in shown(found)


def test_a_class_whose_init_takes_other_arguments_arrives_as_text():
    found = across(raised(TwoArguments(1, 2)))

    assert type(found) is RemoteError
    assert found.type_name == f"{__name__}.TwoArguments"
    assert found.message == "1 and 2"
    assert "in thrower" in found.traceback
    assert isinstance(found.__cause__, TypeError)


def test_a_class_that_hands_on_all_its_arguments_arrives():
    found = across(raised(Careful(1, 2)))

    assert type(found) is Careful
    assert found.args == (1, 2)


@pytest.mark.parametrize("error", [Unpicklable(), Unloadable("text")], ids=repr)
def test_what_cannot_be_rebuilt_arrives_as_text(error):
    found = across(raised(error))

    assert type(found) is RemoteError
    assert found.type_name == f"{__name__}.{type(error).__name__}"
    assert found.message == "text"
    assert "in thrower" in found.traceback


def test_a_message_that_cannot_be_made_is_no_obstacle():
    name, message, text, _ = outcome.pack(raised(Wordless()), None)

    assert name == f"{__name__}.Wordless"
    assert message == "(its __str__ failed)"
    assert "Wordless" in text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Fatal])
def test_what_would_end_the_callers_thread_arrives_as_text(kind):
    for found in across(raised(kind("text"))), across_plainly(raised(kind("text"))):
        assert type(found) is RemoteError
        assert found.type_name.endswith(kind.__name__)
        assert found.message == "text"


def test_a_load_that_raises_to_end_the_thread_is_no_danger():
    def load(body):
        raise SystemExit(3)

    found = outcome.unpack(("m.Kind", "text", "", b"body"), load)

    assert type(found) is RemoteError
    assert found.type_name == "m.Kind"


@pytest.mark.parametrize("body", [7, [], "text", [(7, "")], [7], [()], None, [(None,)]])
def test_an_object_that_is_no_exception_is_no_danger(body):
    found = outcome.unpack(("m.Kind", "text", "lines", b"body"), lambda _: body)

    assert type(found) is RemoteError
    assert (found.type_name, found.message) == ("m.Kind", "text")


def test_a_local_class_can_be_caught_by_the_process_that_made_it():
    class Local(Exception):
        pass

    assert type(across(raised(Local("text")))) is Local


# Text.


def test_the_traceback_begins_behind_the_librarys_own_frames():
    namespace = {"__name__": "forkrpc.child.sync", "function": raised}
    source = "def execute(*args):\n    raise ValueError(*args)\n"
    exec(compile(source, "sync.py", "exec"), namespace)

    def user():
        raise ValueError("text")

    exec("def call(function):\n    function()\n", namespace)
    try:
        namespace["call"](user)
    except ValueError as error:
        error.__traceback__ = error.__traceback__.tb_next
        text = outcome.text_of(error)

    assert "in user" in text
    assert "in call" not in text


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (subprocess.TimeoutExpired([], 1), "subprocess.TimeoutExpired"),
        (TwoArguments(1, 2), f"{__name__}.TwoArguments"),
    ],
)
def test_a_type_is_named_as_in_a_traceback(error, name):
    assert outcome.type_name(error) == name


def test_a_traceback_that_cannot_be_made_leaves_the_name():
    class Strange(Exception):
        @property
        def __cause__(self):
            raise ValueError

        __suppress_context__ = __context__ = __cause__

    text = outcome.text_of(Strange())

    assert "Strange" in text


# Without pickle.


@pytest.mark.parametrize("name", sorted(outcome.PLAIN))
def test_builtin_exceptions_are_rebuilt_from_plain_data(name):
    kind = getattr(builtins, name)
    error = raised(kind("text"))

    found = across_plainly(error)

    assert type(found) is type(error)
    assert found.args == error.args
    assert "in thrower" in shown(found)


@pytest.mark.parametrize(
    "error",
    [
        *(Careful(1, 2), TwoArguments(1, 2), subprocess.TimeoutExpired([], 1)),
        *(ValueError(object()), UnicodeDecodeError("utf-8", b"x", 0, 1, "text")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_other_exception_is_rebuilt_from_plain_data(error):
    found = across_plainly(raised(error))

    assert type(found) is RemoteError
    assert found.type_name == outcome.type_name(error)
    assert found.message == str(error)
    assert "in thrower" in found.traceback


plain_arguments = st.lists(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(), max_size=5
)


def test_a_file_name_arrives_without_pickle_too():
    try:
        open("/no such file")
    except OSError as error:
        found = across_plainly(error)

    assert type(found) is FileNotFoundError
    assert found.filename == "/no such file"
    assert str(found) == "[Errno 2] No such file or directory: '/no such file'"


@given(st.sampled_from(["ValueError", "KeyError", "RuntimeError"]), plain_arguments)
def test_plain_arguments_arrive_as_they_were(name, arguments):
    error = getattr(builtins, name)(*arguments)

    found = across_plainly(error)

    assert type(found) is type(error)
    assert found.args == error.args
    assert str(found) == str(error)


@given(
    st.sampled_from([*vars(builtins), "os.system", "forkrpc.Error", "", "__import__"]),
    plain_arguments | st.integers() | st.dictionaries(st.text(), st.text()),
)
def test_a_false_name_executes_nothing(name, arguments):
    found = outcome.unpack((name, "text", "lines", arguments), None)

    assert isinstance(found, Exception)
    if type(found) is not RemoteError:
        kind = getattr(builtins, name)
        assert issubclass(kind, Exception)
        assert isinstance(found, kind)
