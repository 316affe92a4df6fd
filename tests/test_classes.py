"""Contract: classes that cannot be imported keep their identity on both sides.

The peer is another interpreter that freezes, learns and loads with the same module.
"""

import abc
import collections
import contextlib
import dataclasses
import enum
import pickle
import subprocess
import sys
import threading
import types
import typing

import pytest

from forkrpc import classes
from helpers import CHECKOUT, run_program

# Learns what it is told, evaluates an expression of `value`, freezes the result.
PEER = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from forkrpc import classes

sent, kept = set(), {}
while True:
    try:
        definitions, body, expression = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    for definition in definitions:
        classes.learn(definition)
    classes.mark(definitions, sent)
    try:
        kept["value"] = pickle.loads(body)
        answer = eval(expression, kept)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    definitions, body = classes.freeze(answer, sent)
    classes.mark(definitions, sent)
    pickle.dump((definitions, body), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class Peer:
    """Another interpreter; received: how many definitions the last answer had."""

    def __init__(self):
        self._sent = set()
        command = [sys.executable, "-c", PEER, str(CHECKOUT)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        self.received = 0

    def __call__(self, value, expression="value"):
        """Return what *expression* is in the peer, where `value` is *value*."""
        with classes.lock():
            definitions, body = classes.freeze(value, self._sent)
            classes.mark(definitions, self._sent)
        pickle.dump((definitions, body, expression), self._process.stdin)
        self._process.stdin.flush()
        definitions, body = pickle.load(self._process.stdout)
        for definition in definitions:
            classes.learn(definition)
        classes.mark(definitions, self._sent)
        self.received = len(definitions)
        return pickle.loads(body)

    def definitions_for(self, value):
        """Return how many definitions *value* would need now."""
        with classes.lock():
            return len(classes.freeze(value, self._sent)[0])

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture
def peer():
    with contextlib.closing(Peer()) as peer:
        yield peer


def new_class(text="first"):
    class Local:
        def __init__(self, value=0):
            self.value = value

        def __eq__(self, other):
            return type(other) is type(self) and other.value == self.value

        __hash__ = None

        def tell(self):
            return f"{text} {self.value}"

    return Local


# Identity.


def test_an_object_of_a_local_class_comes_back_as_one_of_the_same_class(peer):
    local = new_class()

    found = peer(local(7))

    assert type(found) is local
    assert found == local(7)


def test_a_local_class_itself_comes_back_as_itself(peer):
    local = new_class()

    assert peer(local) is local
    assert peer([local, local(1)], "value[0] is type(value[1])") is True


def test_the_methods_of_a_local_class_work_in_the_peer(peer):
    assert peer(new_class("text")(7), "value.tell()") == "text 7"


def test_a_class_is_defined_once_to_each_peer(peer):
    local = new_class()

    first = peer.definitions_for(local())
    peer(local())
    again = peer.definitions_for([local(), local])
    with contextlib.closing(Peer()) as other:
        other_first = other.definitions_for(local())

    assert (first, again, other_first) == (1, 0, 1)


def test_a_class_that_came_from_here_is_not_defined_again_by_the_answer(peer):
    peer(new_class()())

    assert peer.received == 0


def test_two_peers_may_hold_objects_of_one_class(peer):
    local = new_class()

    with contextlib.closing(Peer()) as other:
        found = [peer(other(local(3))), other(peer(local(4)))]

    assert found == [local(3), local(4)]


def test_an_importable_class_needs_no_definition(peer):
    value = collections.OrderedDict(a=1)

    assert peer.definitions_for((value, collections.OrderedDict)) == 0
    assert peer(value) == value


def test_two_classes_of_one_name_stay_apart(peer):
    one, other = new_class("one"), new_class("other")

    told = peer([one(1), other(2)], "[each.tell() for each in value]")
    found = peer([one(1), other(2)])

    assert told == ["one 1", "other 2"]
    assert [type(each) for each in found] == [one, other]
    assert peer([one, other], "value[0] is value[1]") is False


def test_a_class_of_the_peer_arrives_once_and_stays_the_same(peer):
    peer(0, "exec('class Own:\\n    def tell(self): return 1\\n', globals())")

    one = peer(0, "Own()")
    received = peer.received
    other = peer(0, "Own()")

    assert type(one) is type(other)
    assert type(one).__name__ == "Own"
    assert one.tell() == 1
    assert (received, peer.received) == (1, 0)


def test_a_class_of_the_peer_is_its_own_again_when_it_returns(peer):
    peer(0, "exec('class Own: pass\\nkept = Own()', globals())")

    found = peer(0, "kept")

    assert peer(found, "type(value) is Own") is True
    assert peer.definitions_for(found) == 0


def test_a_class_of_the_peer_is_none_of_ours_whatever_its_name(peer):
    local = new_class("ours")
    peer(local())
    peer(0, "exec('class Local:\\n    def tell(self): return 1\\n', globals())")

    found = peer(0, "Local()")

    assert type(found).__name__ == local.__name__
    assert type(found) is not local
    assert local(3).tell() == "ours 3"


# Nothing that arrives changes what is here.


def test_a_class_that_was_changed_in_the_peer_is_not_changed_here(peer):
    local = new_class()
    peer(local())
    before = dict(vars(local))

    peer(local, "setattr(value, 'tell', lambda self: 'changed')")
    peer(local, "setattr(value, 'more', 1)")
    found = peer(local(1), "value")

    assert found.tell() == "first 1"
    assert dict(vars(local)) == before


def test_a_class_that_was_changed_here_is_not_changed_in_the_peer(peer):
    local = new_class()
    peer(local)

    local.tell = lambda self: "changed"

    assert peer(local(1), "value.tell()") == "first 1"
    assert type(peer(local(1))) is local


def test_a_subclass_made_in_the_peer_leaves_its_base_alone(peer):
    local = new_class()
    before = dict(vars(local))
    peer(
        local, "exec('class Sub(value):\\n    def tell(self): return 2\\n', globals())"
    )

    found = peer(0, "Sub(5)")

    assert isinstance(found, local)
    assert type(found) is not local
    assert (found.tell(), local(1).tell()) == (2, "first 1")
    assert dict(vars(local)) == before


# Classes that belong together.


def test_a_subclass_and_its_base_keep_their_relation(peer):
    base = new_class()

    class Sub(base):
        pass

    found = peer([Sub(1), base(2)])
    related = peer(
        [Sub, base], "issubclass(*value) and value[0].__mro__[1] is value[1]"
    )

    assert [type(each) for each in found] == [Sub, base]
    assert related is True


def test_a_subclass_of_a_class_that_was_sent_before_refers_to_it(peer):
    base = new_class()
    peer(base)

    class Sub(base):
        pass

    assert peer.definitions_for(Sub) == 1
    assert peer([Sub, base], "value[0].__mro__[1] is value[1]") is True


def test_a_base_comes_with_its_subclass_also_to_a_peer_that_has_neither(peer):
    base = new_class()

    class Sub(base):
        pass

    classes_sent_to_another = Peer()
    with contextlib.closing(classes_sent_to_another) as other:
        other(base)
        other(Sub)

    assert peer(Sub(3), "value.tell()") == "first 3"
    assert type(peer(Sub(3))) is Sub


def test_classes_that_refer_to_each_other_arrive_together(peer):
    class Egg:
        def next(self):
            return Hen()

    class Hen:
        def next(self):
            return Egg()

    assert peer(Egg(), "type(value.next().next()) is type(value)") is True
    assert type(peer(Egg(), "value.next()")) is Hen
    assert peer.definitions_for([Egg, Hen]) == 0


def test_a_class_that_refers_to_itself_arrives(peer):
    class Node:
        kinds = []

        def __init__(self):
            super().__init__()
            self.kind = __class__

    Node.kinds.append(Node)

    found = peer(Node())

    assert type(found) is Node
    assert found.kind is Node
    assert peer(Node, "value.kinds[0] is value") is True


def test_a_function_by_value_refers_to_the_one_class(peer):
    local = new_class()

    def make(number):
        return local(number)

    assert type(peer(make, "value(3)")) is local
    assert peer([make, local], "type(value[0](1)) is value[1]") is True


def test_a_function_comes_back_as_one_that_does_the_same(peer):
    assert peer(lambda number: number + 1)(3) == 4


# Kinds of classes.


def test_members_of_an_enum_stay_the_members(peer):
    class Colour(enum.Enum):
        RED = 1
        GREEN = "green"

        def tell(self):
            return self.name

    assert peer(Colour.RED) is Colour.RED
    assert peer([Colour.GREEN, Colour], "value[0] is value[1].GREEN") is True
    assert peer(Colour.GREEN, "value.tell()") == "GREEN"
    assert peer({Colour.RED: 1}) == {Colour.RED: 1}


def test_flags_can_be_combined_on_both_sides(peer):
    class Mode(enum.Flag):
        READ = 1
        WRITE = 2

    assert peer(Mode.READ | Mode.WRITE) == Mode.READ | Mode.WRITE
    assert peer(Mode.READ, "value | type(value).WRITE") == Mode.READ | Mode.WRITE


def test_an_exception_of_a_local_class_can_be_caught(peer):
    class Problem(Exception):
        pass

    found = peer(Problem("text", 7))

    with pytest.raises(Problem) as caught:
        raise found
    assert caught.value.args == ("text", 7)


def test_a_dataclass_keeps_its_fields_and_equality(peer):
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        y: "list[int]" = dataclasses.field(default_factory=list)

    assert peer(Point(1)) == Point(1)
    assert peer(Point(1, [2]), "value == type(value)(1, [2])") is True


def test_named_tuples_keep_their_class(peer):
    point = collections.namedtuple("point", "x y")

    class Typed(typing.NamedTuple):
        x: int

    assert type(peer(point(1, 2))) is point
    assert type(peer(Typed(1))) is Typed
    assert peer([point(1, 2), Typed(3)], "value[0].x + value[1].x") == 4


def test_an_object_with_slots_comes_back(peer):
    class Slotted:
        __slots__ = ("value",)

        def __init__(self, value):
            self.value = value

    @dataclasses.dataclass(slots=True)
    class Data:
        value: int

    for kind in Slotted, Data:
        found = peer(kind(3))

        assert type(found) is kind
        assert found.value == 3


def test_a_class_with_slots_has_them_in_the_peer_too(peer):
    class Slotted:
        __slots__ = ("value",)

    class Sub(Slotted):
        __slots__ = "more"

    class Private(Slotted):
        __slots__ = ("__own", "__weakref__")

        def __init__(self):
            self.__own = 7

        def tell(self):
            return self.__own

    for kind in Slotted, Sub, Private:
        assert peer(kind(), "hasattr(value, '__dict__')") is False
    assert peer(Private(), "value.tell()") == 7
    assert peer(Private()).tell() == 7


def test_a_class_with_slots_and_a_dictionary_has_both(peer):
    class Both:
        __slots__ = ("value", "__dict__")

    both = Both()
    both.value, both.other = 1, 2

    assert peer(both, "(value.value, value.other)") == (1, 2)
    assert (peer(both).value, peer(both).other) == (1, 2)


def test_a_metaclass_and_an_abstract_base_are_kept(peer):
    class Meta(type):
        def tell(cls):
            return "meta"

    class Made(metaclass=Meta):
        pass

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def tell(self): ...

    class Concrete(Abstract):
        def tell(self):
            return "concrete"

    assert peer(Made(), "type(value).tell()") == "meta"
    assert type(type(peer(Made()))) is Meta
    assert peer(Concrete(), "value.tell()") == "concrete"
    assert type(peer(Concrete())) is Concrete


def test_a_generic_class_and_what_is_made_of_it_are_kept(peer):
    kind = typing.TypeVar("kind")

    class Box(typing.Generic[kind]):
        pass

    assert type(peer(Box())) is Box
    assert typing.get_origin(peer(Box[int])) is Box


def test_an_object_of_an_importable_class_may_hold_one_of_a_local_class(peer):
    local = new_class()

    found = peer(types.SimpleNamespace(value=[local(1)]))

    assert type(found) is types.SimpleNamespace
    assert found.value == [local(1)]


# Limits and errors.


def test_a_class_that_cannot_be_sent_is_an_error_each_time(peer):
    class Stuck:
        lock = threading.Lock()

    for _ in range(2):
        with pytest.raises(TypeError, match="lock"):
            classes.freeze(Stuck(), set())

    del Stuck.lock
    assert type(peer(Stuck())) is Stuck


def test_a_key_that_was_never_defined_is_an_ordinary_error():
    with pytest.raises(LookupError, match="was not defined here"):
        classes.class_of(b"somebody", 1, 0)


def test_a_body_whose_definition_does_not_arrive_costs_that_body_only(peer):
    local = new_class()
    body = classes.freeze(local(), set())[1]

    failed = peer(body, "__import__('pickle').loads(value)")

    assert failed.startswith("LookupError: class ")
    assert peer(local(1), "value.value") == 1


def test_a_definition_that_arrives_twice_changes_nothing(peer):
    local = new_class()
    definitions, body = classes.freeze(local(5), set())

    for definition in definitions * 2:
        classes.learn(definition)

    assert type(pickle.loads(body)) is local


def test_a_definition_is_loaded_when_it_is_needed_and_not_before(peer):
    definition = pickle.dumps(((b"origin", 1), b"no pickle", []), 5)
    learn = "__import__('forkrpc.classes', fromlist=['']).learn(value)"

    assert peer(definition, learn) is None
    assert peer(new_class()(), "value.value") == 0


def test_classes_that_have_nothing_to_do_with_each_other_do_not_travel_together():
    done = run_program(
        """
        from forkrpc import classes

        def new_class():
            class Local:
                def method(self): return 1
            return Local

        one, other = new_class(), new_class()
        print([len(classes.freeze(each, set())[0]) for each in (one, other)])
        """
    )

    assert (done.stdout, done.stderr) == ("[1, 1]\n", "")


def test_a_class_that_does_not_load_in_the_peer_leaves_others_alone():
    done = run_program(
        """
        import subprocess, sys, types
        from pickle import dumps
        from forkrpc import classes

        here = sys.modules["only_here"] = types.ModuleType("only_here")
        exec("class Base: pass", vars(here))

        def new_classes():
            class Stuck(here.Base):
                def method(self): return 1
            class Free:
                def method(self): return 2
            return Stuck, Free

        stuck, free = new_classes()
        classes.freeze(stuck, set())
        peer = '''
        import pickle, sys
        from forkrpc import classes
        definitions, body = pickle.load(sys.stdin.buffer)
        for each in definitions: classes.learn(each)
        print(pickle.loads(body).method())
        '''
        data = dumps(classes.freeze(free(), set()))
        subprocess.run([sys.executable, "-c", peer], input=data)
        """
    )

    assert (done.stdout, done.stderr) == ("2\n", "")


def test_plain_values_do_not_need_the_library_for_functions():
    done = run_program(
        """
        import sys
        from forkrpc import classes

        for values in (), (1, "text", [b"bytes"], {}), (sys.exit, OSError(2)):
            assert classes.freeze(values, set())[0] == []
        print("cloudpickle" in sys.modules)
        """
    )

    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_class_of_the_program_itself_goes_by_value_and_comes_back_as_itself():
    done = run_program(
        """
        import forkrpc

        class Shape:
            def __init__(self, value): self.value = value
            def tell(self): return f"shape {self.value}"

        def again(shape):
            return shape, shape.tell(), Shape(8)

        with forkrpc.Forker() as template, template.run(again) as proxy:
            one, text, other = proxy.call(Shape(7))
        print(type(one) is Shape, text, type(other) is Shape, other.tell())
        """
    )

    assert (done.stdout, done.stderr) == ("True shape 7 True shape 8\n", "")


def test_a_forked_copy_does_not_wait_for_a_thread_that_it_has_not():
    done = run_program(
        """
        import os, threading
        from forkrpc import classes

        class Ours: pass

        def hold():
            with classes.lock():
                held.set()
                forked.wait()

        held, forked = threading.Event(), threading.Event()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        pid = os.fork()
        if not pid:
            os._exit(0 if classes.lock().acquire(blocking=False) else 1)
        forked.set()
        thread.join()
        print(os.waitpid(pid, 0)[1])
        """
    )

    assert done.stdout == "0\n"


def test_a_forked_copy_gives_its_classes_keys_of_its_own():
    done = run_program(
        """
        import os, pickle
        from forkrpc import classes

        def groups(value):
            return [pickle.loads(each)[0] for each in classes.freeze(value, set())[0]]

        class Before: pass
        class Ours: pass
        class Theirs: pass

        before = groups(Before)
        read, write = os.pipe()
        if not os.fork():
            os.write(write, pickle.dumps((groups(Before), groups(Theirs))))
            os._exit(0)
        ours = groups(Ours)
        os.wait()
        still_before, theirs = pickle.loads(os.read(read, 10_000))
        print(still_before == before, theirs[0][0] != ours[0][0], len({*theirs, *ours}))
        """
    )

    assert (done.stdout, done.stderr) == ("True True 2\n", "")


def test_threads_that_send_a_class_at_once_give_it_one_key():
    local = new_class()
    barrier, found = threading.Barrier(6), []

    def send():
        barrier.wait()
        with classes.lock():
            found.append(classes.freeze(local, set()))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({(tuple(definitions), body) for definitions, body in found}) == 1


# Whether a thing can be imported.


class Outer:
    class Inner:
        def method(self):
            pass


@pytest.mark.parametrize(
    "thing",
    [Outer, Outer.Inner, Outer.Inner.method, len, collections.deque, run_program],
)
def test_a_thing_is_importable_under_its_own_name(thing):
    assert classes.importable(thing)


@pytest.mark.parametrize("thing", [new_class(), lambda: 0, Outer().Inner().method, 7])
def test_a_thing_that_is_not_found_under_its_name_is_not_importable(thing):
    assert not classes.importable(thing)


def test_a_thing_whose_name_means_another_one_by_now_is_not_importable(monkeypatch):
    old = Outer
    monkeypatch.setattr(sys.modules[__name__], "Outer", new_class())

    assert not classes.importable(old)


def test_a_thing_of_the_main_module_is_not_importable(monkeypatch):
    monkeypatch.setattr(Outer, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Outer", Outer, raising=False)

    assert not classes.importable(Outer)
