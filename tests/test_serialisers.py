"""Unit: what each serialiser carries and refuses, and how it tells."""

import collections
import datetime
import decimal
import enum
import pickle
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkrpc import serialisers
from forkrpc.errors import SerialiserError
from forkrpc.pairs import PAIRS

NAMES = ["pickle", *PAIRS]
every_name = pytest.mark.parametrize("name", NAMES)


def codec(name):
    """Return the codec of *name* for values whose classes can all be imported."""
    return serialisers.codec(name, never_define)


def never_define(definition):
    raise AssertionError(f"DEFINE of {len(definition)} bytes")


def round_trip(name, values):
    return codec(name).load(codec(name).dump(values))


# What each name carries.

any_text = st.text(st.characters(exclude_categories=()), max_size=20)
int_of_64_bits = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False)
octets = st.binary(max_size=30)


def nested(leaves, keys, *more):
    """Return lists and dicts of *leaves*, and what *more* makes of a strategy."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(keys, inner, max_size=4),
            *(make(inner) for make in more),
        ),
        max_leaves=10,
    )


def tuples_of(inner):
    return st.lists(inner, max_size=4).map(tuple)


json_leaves = st.none() | st.booleans() | st.integers() | floats | any_text
msgpack_leaves = st.one_of(
    st.none(), st.booleans(), int_of_64_bits, floats, st.text(max_size=20), octets
)
hashable = st.recursive(
    json_leaves | octets | st.complex_numbers(allow_nan=False),
    lambda inner: tuples_of(inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
data_values = nested(
    hashable | octets.map(bytearray),
    hashable | st.just("\0"),
    tuples_of,
    lambda _: st.sets(hashable, max_size=3),
)
dates = st.datetimes() | st.dates() | st.timedeltas() | st.fractions() | st.uuids()
CARRIED = {
    "pickle": nested(data_values | dates, hashable, tuples_of),
    "portable-pickle": nested(data_values | dates, hashable, tuples_of),
    "bytes": octets | st.none(),
    "json": nested(json_leaves, any_text),
    "data": data_values,
    "cbor": nested(msgpack_leaves | st.integers(), st.text(max_size=5) | octets),
    "msgpack": nested(msgpack_leaves, st.text(max_size=5)),
}


def test_there_is_a_strategy_for_every_name():
    assert set(CARRIED) == set(NAMES)


@every_name
@settings(max_examples=40)
@given(data=st.data())
def test_values_come_back_as_they_were(name, data):
    values = data.draw(tuples_of(CARRIED[name]))

    found = round_trip(name, values)

    assert type(found) is tuple
    assert found == values
    assert without_order(found) == without_order(values)


def without_order(value):
    """Return the types in *value* too, which equality leaves out."""
    if isinstance(value, (tuple, list)):
        return type(value), [without_order(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(without_order(each)) for each in value)
    if isinstance(value, dict):
        return dict, sorted(repr(without_order(item)) for item in value.items())
    return type(value), value


@every_name
@settings(max_examples=40)
@given(data=st.data())
def test_values_are_read_from_any_place_in_memory(name, data):
    values = data.draw(tuples_of(CARRIED[name]))
    body = codec(name).dump(values)

    found = codec(name).load(memoryview(b"before" + body + b"after")[6:-5])

    assert type(body) is bytes
    assert found == values


@every_name
def test_no_values_at_all_are_values(name):
    assert round_trip(name, ()) == ()


@pytest.mark.parametrize("name", ["pickle", "portable-pickle", "cbor"])
def test_cyclic_data_comes_back_cyclic(name):
    cycle = [1, {}]
    cycle[1]["back"] = cycle
    cycle.append(cycle)

    (found,) = round_trip(name, (cycle,))

    assert found[0] == 1
    assert found[1]["back"] is found
    assert found[2] is found


@pytest.mark.parametrize("name", ["pickle", "portable-pickle", "cbor"])
def test_one_value_at_two_places_is_still_one(name):
    shared = ["shared"]

    one, other = round_trip(name, (shared, {"again": shared}))

    assert other["again"] is one


@pytest.mark.parametrize("name", ["json", "data", "msgpack"])
def test_cyclic_data_is_refused_where_it_cannot_be_written(name):
    cycle = []
    cycle.append(cycle)

    with pytest.raises(SerialiserError):
        codec(name).dump((cycle,))


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_take_any_byte_string_and_give_bytes(kind):
    (found,) = round_trip("bytes", (kind(b"octets"),))

    assert type(found) is bytes
    assert found == b"octets"


@pytest.mark.parametrize("value", ["text", 1, {}, [b"octets"], 1.5])
def test_bytes_refuse_anything_else(value):
    with pytest.raises(
        SerialiserError, match=r"value\[1\].*'bytes' sends byte strings"
    ):
        codec("bytes").dump((b"first", value))


def test_json_is_what_other_programs_read():
    body = codec("json").dump((1, "grüße", None, True, [1.5], {"key": []}))

    assert body == '[1,"grüße",null,true,[1.5],{"key":[]}]'.encode()


@pytest.mark.parametrize("value", [b"octets", {1, 2}, 1j, object(), {(): 1}])
def test_json_refuses_what_json_does_not_have(value):
    with pytest.raises(SerialiserError, match=r"value\[0\]"):
        codec("json").dump((value,))


def test_portable_pickle_can_be_read_by_the_oldest_python_there_is():
    body = codec("portable-pickle").dump((1, "text"))

    assert body[:2] == b"\x80\x04"
    assert pickle.loads(body) == (1, "text")


# "data": plain data only.


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


class Runs:
    def __reduce__(self):
        raise AssertionError("code was run")


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        *(Colour.RED, Text("text"), Point(1, 2), Runs(), object(), print, int, re),
        *(datetime.date(2000, 1, 1), decimal.Decimal(1), range(3), memoryview(b"x")),
        *(collections.OrderedDict(), collections.Counter(), iter([])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_refuses_objects_of_other_types(value):
    with pytest.raises(SerialiserError, match=r"value\[0\]\['key'\].* no plain data"):
        codec("data").dump(({"key": value},))


json_documents = nested(
    json_leaves | st.sampled_from(["\0", "v", "d", "t", "s", "f", "b", "a", "c"]),
    any_text | st.sampled_from(["\0", "v"]),
    lambda inner: st.fixed_dictionaries(
        {"\0": inner | st.sampled_from("dtsfbac"), "v": inner}
    ),
)
PLAIN_TYPES = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(list, dict, tuple, set, frozenset),
)


@given(st.lists(json_documents, max_size=4))
def test_data_makes_nothing_but_plain_data_of_any_document(document):
    body = codec("json").dump(tuple(document))

    try:
        found = codec("data").load(body)
    except (ValueError, TypeError, LookupError):
        return

    assert all(type(each) in PLAIN_TYPES for each in parts_of(found))


def parts_of(value):
    yield value
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from parts_of(each)


@given(st.binary(max_size=100))
def test_data_makes_an_ordinary_error_of_other_bytes(body):
    try:
        found = codec("data").load(body)
    except (ValueError, TypeError, LookupError, SerialiserError):
        return
    assert all(type(each) in PLAIN_TYPES for each in parts_of(found))


@pytest.mark.parametrize("name", ["data", "json"])
def test_a_document_that_is_nested_too_deeply_is_an_ordinary_error(name):
    body = b"[" * 200_000 + b"]" * 200_000

    with pytest.raises(RecursionError):
        codec(name).load(body)


# Errors.


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("values", "path", "kind"),
    [
        ((LOCK,), "value[0]", "lock"),
        ((1, 2, LOCK), "value[2]", "lock"),
        ((1, {"key": [0, (LOCK,)]}), "value[1]['key'][1][0]", "lock"),
        ((Holder(one=1, other=[LOCK]),), "value[0].other[0]", "lock"),
        (({"lock": {1: Holder(a=LOCK)}},), "value[0]['lock'][1].a", "lock"),
        (([[[[[[[[[[[[[LOCK]]]]]]]]]]]]],), "value" + "[0]" * 10, "list"),
    ],
)
def test_the_error_names_the_path_and_type_of_what_cannot_be_sent(values, path, kind):
    with pytest.raises(SerialiserError) as caught:
        codec("pickle").dump(values)

    text = str(caught.value)
    assert text.startswith(f"value{path.removeprefix('value')} (")
    assert kind in text.split(")")[0]
    assert isinstance(caught.value.__cause__, TypeError)
    assert str(caught.value.__cause__) in text


class Refuses:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), ZeroDivisionError("no")])
def test_whatever_a_reduce_method_raises_is_the_cause(error):
    with pytest.raises(SerialiserError, match=r"value\[0\] \(Refuses\)") as caught:
        codec("pickle").dump((Refuses(error),))

    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_thread_is_not_taken_for_an_error_of_the_value(error):
    with pytest.raises(error):
        codec("pickle").dump((Refuses(error()),))


def test_a_generator_among_the_values_has_a_remedy():
    with pytest.raises(SerialiserError, match=r"value\[0\] .*stream\(\)"):
        codec("pickle").dump(((each for each in ()),))


def test_a_coroutine_has_a_remedy():
    async def function():
        pass

    coroutine = function()
    try:
        with pytest.raises(SerialiserError, match='backend="async"'):
            codec("pickle").dump((coroutine,))
    finally:
        coroutine.close()


def test_what_dumps_returns_has_to_be_bytes():
    made = serialisers.codec((lambda values: "text", list), never_define)

    with pytest.raises(SerialiserError, match="dumps returned 'text'"):
        made.dump(())


def test_what_loads_returns_has_to_be_a_tuple_or_list():
    made = serialisers.codec((bytes, lambda body: {"no": "tuple"}), never_define)

    with pytest.raises(SerialiserError, match="loads returned {'no': 'tuple'}"):
        made.load(b"")


def test_what_loading_raises_reaches_the_caller():
    with pytest.raises(pickle.UnpicklingError):
        codec("pickle").load(b"\x80\x05garbage")


def test_an_error_of_the_library_from_a_users_dumps_stays_the_same():
    error = SerialiserError("mine")

    def dumps(values):
        raise error

    with pytest.raises(SerialiserError) as caught:
        serialisers.codec((dumps, list), never_define).dump(())

    assert caught.value is error


# Which serialiser.


@every_name
def test_only_pickles_are_trusted_to_run_code(name):
    made = codec(name)

    assert made.trusted == name.endswith("pickle")
    assert made.packs <= made.trusted


def test_a_pair_of_callables_is_a_serialiser():
    made = serialisers.codec((lambda values: repr(values).encode(), eval), never_define)

    assert made.load(made.dump((1, "text"))) == (1, "text")
    assert not made.trusted


def test_a_pair_gets_bytes_however_long_the_body_is():
    made = serialisers.codec(
        (lambda values: repr(values).encode(), lambda body: eval(body.decode())),
        never_define,
    )

    assert made.load(memoryview(made.dump(("x" * 5000,)))) == ("x" * 5000,)


def test_a_pair_is_found_by_the_name_of_its_module(tmp_path, monkeypatch):
    source = "class Kind:\n    pair = [lambda values: b'ab', tuple]\n"
    (tmp_path / "serialiser_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    made = serialisers.codec("serialiser_of_a_test:Kind.pair", never_define)

    assert made.load(made.dump(())) == (97, 98)


@pytest.mark.parametrize(
    ("name", "module"), [("cbor", "cbor2"), ("msgpack", "msgspec")]
)
def test_a_missing_library_names_the_extra_to_install(name, module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)

    with pytest.raises(ImportError) as caught:
        codec(name)

    assert module in str(caught.value)
    assert f"pip install 'forkrpc[{name}]'" in str(caught.value)
    assert caught.value.name == module


@pytest.mark.parametrize(
    ("serialiser", "error", "texts"),
    [
        ("pickles", ValueError, ["'pickles'", "'json'", "package.module:attribute"]),
        ("", ValueError, ["''", "'data'"]),
        ("PICKLE", ValueError, ["'PICKLE'"]),
        (None, TypeError, ["None", "a pair (dumps, loads)"]),
        (7, TypeError, ["7", "a pair (dumps, loads)"]),
        ((len,), TypeError, ["(dumps, loads)"]),
        ((len, len, len), TypeError, ["(dumps, loads)"]),
        ((len, "loads"), TypeError, ["'loads'", "(dumps, loads)"]),
        (b"json", TypeError, ["b'json'"]),
        ("json:dumps", TypeError, ["(dumps, loads)"]),
        ("no_such_module:pair", ImportError, ["no_such_module"]),
        ("json:no_such_pair", (AttributeError, ImportError), ["json", "no_such_pair"]),
    ],
)
def test_a_bad_serialiser_is_told_with_its_value_and_the_remedy(
    serialiser, error, texts
):
    with pytest.raises(error) as caught:
        serialisers.codec(serialiser, never_define)

    for text in texts:
        assert text in str(caught.value)


# What may wait to be serialised with others.

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers()
short_texts = st.text(max_size=64) | st.binary(max_size=64)


@given(st.lists(scalars | short_texts, max_size=8).map(tuple))
def test_a_few_small_immutable_values_may_be_serialised_later(values):
    assert serialisers.keepable(values)


@pytest.mark.parametrize(
    "value",
    [
        *([], {}, (), set(), frozenset(), bytearray(), object(), print, Holder()),
        *(Colour.RED, Text("x"), Point(1, 2), range(3), decimal.Decimal(1)),
        *("x" * 65, b"x" * 65),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_may_change_or_is_large_is_serialised_at_once(value):
    assert not serialisers.keepable((value,))
    assert not serialisers.keepable((1, "text", value))


@pytest.mark.parametrize("value", [1, "x", None])
def test_many_values_are_serialised_at_once(value):
    assert serialisers.keepable((value,) * 8)
    assert not serialisers.keepable((value,) * 9)
