"""Values that plain pickle refuses or misnames; both processes.

Functions and objects go by value, as cloudpickle does it.  A class that cannot be
imported (of `__main__`, or local to a function) goes by value once to each peer, in a
DEFINE frame, and by its key ever after, in both directions.  So a reply names such a
class and never redefines it, and what was a class of the receiver is the same object
again: `isinstance`, `except` and enum members' `is` hold.

A key is (origin, group, index).  Classes that refer to each other are one group, sent
as one body.  The registry belongs to the process: any number of connections share it.
"""

import _thread
import os
import sys
from _pickle import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .pieces import Pieces

    Group = tuple[bytes, int]  # origin, number
    Key = tuple[bytes, int, int]  # origin, number of the group, index in it

PROTOCOL = 5
BY_NAME = 0x93  # opcode STACK_GLOBAL: something is named
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE

_lock = _thread.RLock()  # held while groups are made, sent and loaded


def _new_lock() -> None:
    """In a process just forked: a thread that is not in it may hold the old one."""
    global _lock
    _lock = _thread.RLock()


os.register_at_fork(after_in_child=_new_lock)
_keys: "dict[type, Key]" = {}
_classes: "dict[Key, type]" = {}
_members: "dict[Group, list[type]]" = {}  # groups made here
_bodies: "dict[Group, tuple[bytes, list[Group]]]" = {}  # that came: body, what it needs
_origin: "list[bytes]" = []


def lock() -> "_thread.RLock":
    """Return the lock to hold from `freeze` until its definitions are queued."""
    return _lock


def _own_origin() -> bytes:
    """Return this process's name in keys.  A forked process is another origin."""
    if not _origin:
        _origin.append(os.urandom(8))
        if len(_registered) == 0:
            os.register_at_fork(after_in_child=_origin.clear)
            _registered.append(True)
    return _origin[0]


_registered: "list[bool]" = []


def freeze(
    values: object, sent: "set[Group]", pieces: "Pieces | None" = None
) -> "tuple[list[bytes], bytes]":
    """Return (definitions, body) of *values* for a peer that has the groups *sent*.

    The definitions have to reach the peer before the body.  The caller holds `lock()`
    and adds what it queued to *sent* by `mark`.  Raises what pickling raises.
    pieces: where the body goes instead; plain pickle could not make it.
    """
    if pieces is None and (body := plain(values)) is not None:
        return [], body
    pickler = _pickler(set(), pieces)
    body = pickler.body_of(values)
    wanted: dict[Group, bytes] = {}
    for group in pickler.groups:
        _collect(group, sent, wanted)
    return list(wanted.values()), body


def by_value(values: object) -> "tuple[bytes, list[type]]":
    """Return (body, one class of each group it refers to), as it is for any peer.

    Who sends it has to send these classes along.  The caller holds `lock()`.
    """
    pickler = _pickler(set())
    body = pickler.body_of(values)
    return body, [class_of(*group, 0) for group in sorted(pickler.groups)]


def plain(values: object) -> "bytes | None":
    """Return what plain pickle makes of *values*; None where it refuses or errs.

    It writes a thing of `__main__` by that name, which is another module over there; a
    string that looks so only takes the longer way.
    """
    try:
        body = dumps(values, PROTOCOL)
    except Exception:  # PicklingError, TypeError, or whatever __reduce__ raises
        return None
    if BY_NAME in body and body.find(b"__main__") >= 0:  # the first look is short
        return None
    return body


def _collect(group: "Group", sent: "set[Group]", wanted: "dict[Group, bytes]") -> None:
    """Add the definition of *group* to *wanted*, behind those that it needs."""
    if group in sent or group in wanted:
        return
    members = _members.get(group)
    if members is None:
        body, needs = _bodies[group]
    else:
        # By value as they are now: a notebook may have changed them since.
        pickler = _pickler(set(members))
        body, needs = pickler.body_of(members), sorted(pickler.groups - {group})
    wanted[group] = b""  # groups may need each other
    for needed in needs:
        _collect(needed, sent, wanted)
    del wanted[group]
    wanted[group] = dumps((group, body, needs), PROTOCOL)


def mark(definitions: "Sequence[bytes]", sent: "set[Group]") -> None:
    """Note that a peer has these definitions: they were queued, or came from it."""
    for definition in definitions:
        sent.add(loads(definition)[0])


def learn(definition: "bytes | memoryview") -> None:
    """Keep a definition that arrived; it is loaded when first needed."""
    group, body, needs = loads(definition)
    with _lock:
        _bodies.setdefault(group, (body, needs))


def known() -> "set[Group]":
    """Return all groups that this process has; a worker's came from its program."""
    return set(_bodies) | set(_members)


def class_of(origin: bytes, number: int, index: int) -> type:
    """Return the class of a key.  Called by pickle; raises LookupError."""
    key = (origin, number, index)
    found = _classes.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _classes:
            if (origin, number) not in _bodies:
                raise LookupError(f"class {key} was not defined here")
            classes = loads(_bodies[origin, number][0])
            _register(origin, number, classes)
        return _classes[key]


def _register(origin: bytes, number: int, classes: "list[type]") -> None:
    for index, each in enumerate(classes):
        _classes[origin, number, index] = each
        _keys[each] = (origin, number, index)


def importable(thing: object) -> bool:
    """Return whether *thing* is found under its module and qualified name."""
    name = getattr(thing, "__module__", None)
    if name is None or name == "__main__":
        return False
    found: object = sys.modules.get(name)
    for part in getattr(thing, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is thing


def is_heap(kind: type) -> bool:
    """Return whether a class was made by a class statement, or like it.

    Some builtin types, such as that of code objects, are not found under their name.
    """
    return bool(kind.__flags__ & _HEAP_TYPE)


def with_slots(kind: type, reduced: "Any") -> "Any":
    """Return cloudpickle's reduction of *kind*, changed to keep its `__slots__`.

    It makes the class without them, and the values would live in `__dict__`.
    """
    slots = kind.__dict__.get("__slots__")
    if not slots or not isinstance(reduced, tuple) or len(reduced) < 3:
        return reduced
    make, (meta, name, bases, namespace, *others), state, *rest = reduced
    named = {"__slots__": slots}
    attributes = {key: value for key, value in state[0].items() if key != "__slots__"}
    arguments = meta, name, bases, {**namespace, **named}, *others
    return make, arguments, (attributes, *state[1:]), *rest


def _make_group(root: type) -> "Key":
    """Give *root*, and the classes it cannot be without, keys and a body."""
    members = [root]
    while True:
        pickler = _pickler(set(members))
        pickler.body_of(members)
        if not pickler.strangers:
            break
        members.extend(pickler.strangers)
    origin, number = _own_origin(), len(_members) + 1
    _members[origin, number] = members
    _register(origin, number, members)
    return _keys[root]


def _pickler(members: "set[type]", pieces: "Pieces | None" = None) -> "_Pickler":
    return _pickler_class()(members, pieces)


if TYPE_CHECKING:

    class _Pickler:
        groups: set[Group]
        strangers: list[type]

        def __init__(self, members: "set[type]", pieces: "Pieces | None") -> None: ...

        def body_of(self, values: object) -> bytes: ...


_made: "list[type[_Pickler]]" = []


def _pickler_class() -> "type[_Pickler]":
    """Return the pickler class; made when cloudpickle is first needed."""
    if not _made:
        _made.append(_make_pickler_class())
    return _made[0]


def _make_pickler_class() -> "type[_Pickler]":
    from io import BytesIO

    from cloudpickle import CloudPickler

    class Pickler(CloudPickler):  # type: ignore[misc]
        """Reduces classes that cannot be imported to keys.

        members: classes to write by value, those of the group being made.
        pieces: where to write, and keep buffers; None: `body_of` returns it all.
        groups: the groups that what was written refers to.
        strangers: classes met that belong into the group being made.
        """

        def __init__(self, members: "set[type]", pieces: "Pieces | None") -> None:
            self._file = BytesIO()
            if pieces is None:
                super().__init__(self._file, PROTOCOL)
            else:
                super().__init__(pieces, PROTOCOL, pieces.take)
            self.members = members
            self.groups: set[Group] = set()
            self.strangers: list[type] = []

        def body_of(self, values: object) -> bytes:
            self.dump(values)
            return self._file.getvalue()

        def reducer_override(self, thing: object) -> object:
            if not isinstance(thing, type) or importable(thing) or not is_heap(thing):
                return super().reducer_override(thing)
            if thing in self.members:
                return with_slots(thing, super().reducer_override(thing))
            key = _keys.get(thing)
            if key is None and self.members:
                if thing not in self.strangers:
                    self.strangers.append(thing)
                return with_slots(thing, super().reducer_override(thing))
            if key is None:
                key = _make_group(thing)
            self.groups.add(key[:2])
            return class_of, key

    return Pickler
