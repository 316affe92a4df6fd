"""Unit: what keeps the package in shape: layers, sizes, exports, the child's footprint.

Each rule is a literal table and a short test.  A new module needs its row in LAYERS
and its test file.
"""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import forkrpc
from helpers import CHECKOUT, unless_editable

PACKAGE = CHECKOUT / "forkrpc"

# Each module's half and rank.  A module imports modules of lower rank only, "both"
# imports "both", "child" also "child", "parent" also "parent".  Engines use what the
# package itself exports (the row ""), and nobody imports them.
LAYERS = {
    "errors": ("both", 0),
    "atomic": ("both", 0),
    "system": ("both", 1),
    "memory": ("both", 2),
    "parts": ("both", 3),
    "wire": ("both", 4),
    "filling": ("both", 4),
    "decoder": ("both", 5),
    "pieces": ("both", 4),
    "progress": ("both", 5),
    "spin": ("both", 2),
    "fds": ("both", 4),
    "classes": ("both", 3),
    "chunks": ("both", 6),
    "functions": ("both", 4),
    "context": ("both", 5),
    "notes": ("both", 6),
    "pairs": ("both", 3),
    "serialisers": ("both", 5),
    "outcome": ("both", 5),
    "tasks": ("both", 0),
    "child": ("child", 10),
    "child.bodies": ("child", 9),
    "child.clock": ("child", 9),
    "child.deadlines": ("child", 9),
    "child.done": ("child", 9),
    "child.leave": ("child", 9),
    "child.answers": ("child", 10),
    "child.inbox": ("child", 9),
    "child.replies": ("child", 10),
    "child.stream": ("child", 10),
    "child.chunk": ("child", 10),
    "child.carried": ("child", 10),
    "child.logs": ("child", 10),
    "child.around": ("child", 12),
    "child.output": ("child", 11),
    "child.astream": ("child", 11),
    "child.calls": ("child", 12),
    "child.sync": ("child", 12),
    "child.aio": ("child", 13),
    "child.paced": ("child", 13),
    "child.keeper": ("child", 12),
    "child.isolated": ("child", 14),
    "child.worker": ("child", 15),
    "child.steps": ("child", 16),
    "child.template": ("child", 17),
    "awaiter": ("parent", 20),
    "closing": ("parent", 20),
    "limits": ("parent", 19),
    "death": ("parent", 20),
    "entries": ("parent", 20),
    "gate": ("parent", 20),
    "options": ("parent", 20),
    "scheduling": ("parent", 20),
    "interpreter": ("parent", 21),
    "loading": ("parent", 21),
    "reactor": ("parent", 21),
    "items": ("parent", 22),
    "loops": ("parent", 22),
    "twin": ("parent", 22),
    "watch": ("parent", 22),
    "session": ("parent", 23),
    "cells": ("parent", 24),
    "pipe": ("parent", 24),
    "said": ("parent", 24),
    "arguments": ("parent", 24),
    "pacing": ("parent", 20),
    "source": ("parent", 21),
    "feed": ("parent", 28),
    "making": ("parent", 28),
    "jobs": ("parent", 29),
    "mapping": ("parent", 30),
    "amapping": ("parent", 31),
    "carrying": ("parent", 25),
    "callbacks": ("parent", 24),
    "standin": ("parent", 24),
    "future": ("parent", 24),
    "lane": ("parent", 24),
    "life": ("parent", 24),
    "link": ("parent", 24),
    "overlapping": ("parent", 24),
    "sender": ("parent", 24),
    "channel": ("parent", 25),
    "flow": ("parent", 26),
    "connection": ("parent", 27),
    "inplace": ("parent", 27),
    "inpool": ("parent", 29),
    "instream": ("parent", 26),
    "process": ("parent", 27),
    "program": ("parent", 27),
    "stream": ("parent", 28),
    "astream": ("parent", 29),
    "proxy": ("parent", 30),
    "starting": ("parent", 31),
    "view": ("parent", 31),
    "lending": ("parent", 25),
    "flows": ("parent", 26),
    "intake": ("parent", 27),
    "member": ("parent", 28),
    "retrying": ("parent", 28),
    "sizing": ("parent", 22),
    "dispatch": ("parent", 29),
    "growth": ("parent", 29),
    "poolview": ("parent", 34),
    "crew": ("parent", 32),
    "pool": ("parent", 33),
    "forker": ("parent", 34),
    "packing": ("parent", 34),
    "executor": ("parent", 35),
    "inline": ("parent", 35),
    "remote": ("parent", 35),
    "": ("parent", 36),
    "engines": ("parent", 37),
    "engines.dask": ("parent", 38),
    "engines.joblib": ("parent", 38),
}
MAY_IMPORT = {
    "both": {"both"},
    "child": {"both", "child"},
    "parent": {"both", "parent"},
}

# (importer, imported): why, against the above.  Inside a function only.
EXCEPTIONS = {
    ("interpreter", "child.template"): "a copy of the program runs the template's loop",
    ("interpreter", "child.leave"): "the program flushes its files first",
    ("interpreter", "link"): "a copy of the program is a template like another",
    ("child.worker", "child.steps"): "its traceback_of knows the sources of eval",
    ("forker", "inline"): "Forker.inline is its constructor",
    ("inline", "child.worker"): "a file becomes what it becomes in a worker",
    ("standin", "child"): "a call in place can send events as in a worker",
    ("standin", "child.around"): "there is nothing around calls in place",
    ("standin", "child.astream"): "what refuses calls of generators there, and here",
    ("standin", "child.stream"): "the same, and what may be iterated over",
    ("inplace", "child.leave"): "the status of a function that asks for the end",
    ("pool", "poolview"): "Pool.with_options makes one",
    ("proxy", "view"): "Proxy.with_options makes one",
    ("forker", "remote"): "Forker.remote and Forker.ssh are its constructors",
    ("forker", "engines.dask"): "Forker.on is its constructor",
}

# What a module of "both" or "child" may import when it is itself imported.
STDLIB_AT_IMPORT = {
    *("_pickle", "_signal", "_socket", "_struct", "_thread", "_weakref"),
    *("array", "atexit", "builtins", "errno", "fcntl", "gc", "io", "itertools"),
    *("marshal", "mmap", "os", "posix", "resource", "select", "struct", "sys", "time"),
    *("collections", "functools", "operator"),  # _pickle loads them in any case
}
MORE_AT_IMPORT = {
    # Loaded for async workers only.
    "child.aio": {"asyncio", "contextvars", "inspect"},
    "child.astream": {"asyncio", "inspect"},
    "child.calls": {"asyncio", "contextvars", "inspect"},
    "child.deadlines": {"heapq", "math"},
    "child.worker": {"faulthandler"},  # a builtin module
}

PUBLIC = {
    *("Forker", "Proxy", "Pool", "Executor", "Process"),
    *("event", "flush", "retire", "in_worker", "exit_grace"),
    *("Error", "SetupError", "WorkerDied", "CallTimeout", "RemoteError"),
    *("SerialiserError", "ProtocolError", "ClosedError"),
}

NOT_BY_IMPORT = {"asyncio", "dataclasses", "logging", "socket", "threading", "typing"}
NOT_IN_A_WORKER = {
    *("asyncio", "dataclasses", "enum", "logging", "re", "socket", "typing"),
}

# What a worker that ran nothing else has loaded, over what every interpreter has.
IN_A_WORKER = {
    *("forkrpc", "forkrpc.atomic", "forkrpc.child", "forkrpc.child.around"),
    *("forkrpc.child.bodies", "forkrpc.child.clock", "forkrpc.child.leave"),
    *("forkrpc.child.chunk", "forkrpc.child.inbox", "forkrpc.chunks", "marshal"),
    *("forkrpc.child.logs", "forkrpc.child.replies", "forkrpc.child.steps"),
    *("forkrpc.child.paced", "forkrpc.child.stream", "forkrpc.child.sync"),
    *("forkrpc.child.template", "forkrpc.child.worker"),
    *("forkrpc.classes", "forkrpc.decoder", "forkrpc.errors", "forkrpc.fds"),
    *("forkrpc.filling", "forkrpc.memory", "forkrpc.parts", "forkrpc.pieces"),
    "forkrpc.functions",
    *("forkrpc.outcome", "forkrpc.pairs", "forkrpc.progress"),
    *("forkrpc.serialisers", "forkrpc.spin"),
    *("forkrpc.system", "forkrpc.wire"),
    *("_pickle", "_socket", "_struct", "atexit", "fcntl", "gc", "itertools", "mmap"),
    *("select",),
    # system, for prctl; without ctypes
    "_ctypes",
    # child.worker; a builtin module
    "faulthandler",
    # child.template, for exit and quit
    "_sitebuiltins",
    # os
    *("_collections_abc", "_stat", "genericpath", "os", "os.path", "posixpath", "stat"),
    # _pickle, which asks for functools.partial
    *("_collections", "_compat_pickle", "_functools", "_operator", "collections"),
    *("collections.abc", "copyreg", "functools", "keyword", "operator", "reprlib"),
    "types",
}

# Modules whose tests are not in tests/test_<path with underscores>.py.
TESTED_ELSEWHERE = {
    "": "test_structure.py",
}

LONGEST_FUNCTION = 50  # lines, without the docstring
LONGEST_MODULE = 400  # lines


def module_name(path):
    """Return the name below the package: "" for the package, "child.sync"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def offenders(found_in):
    """Return what a rule finds, by module, without those where it finds nothing."""
    found = {name: found_in(name) for name in SOURCES}
    return {name: wrong for name, wrong in found.items() if wrong}


@functools.cache
def parse(name):
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"))


def is_for_type_checkers(node):
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def executed_nodes(node, in_function=False):
    """Yield (node, whether in a function) of all that can be executed at run time."""
    yield node, in_function
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        in_function = True
    children = node.orelse if is_for_type_checkers(node) else ast.iter_child_nodes(node)
    for child in children:
        yield from executed_nodes(child, in_function)


@functools.cache
def imports(name):
    """Return [(absolute dotted name, whether in a function)] of what *name* imports."""
    return [
        (target, in_function)
        for node, in_function in executed_nodes(parse(name))
        for target in imported_by(node, name)
    ]


def imported_by(node, name):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        origin = absolute_origin(node, name)
        return [f"{origin}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args:  # __import__("x"), import_module("x")
        called = ast.unparse(node.func).rpartition(".")[2]
        argument = node.args[0]
        if called in ("__import__", "import_module") and isinstance(
            argument, ast.Constant
        ):
            return [argument.value]
    return []


def absolute_origin(node, name):
    if not node.level:
        return node.module
    package = ["forkrpc", *filter(None, name.split("."))]
    if SOURCES[name].name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *filter(None, [node.module])])


def own_module(target):
    """Return which module of the package a dotted name means; None for others."""
    if target.partition(".")[0] != "forkrpc":
        return None
    inner = target.partition(".")[2]
    while inner and inner not in SOURCES and inner not in LAYERS:
        inner = inner.rpartition(".")[0]  # a name in that module
    return inner


def against_the_layers(name, imported, in_function):
    if imported not in LAYERS or imported == name:
        return imported != name
    (half, rank), (other_half, other_rank) = LAYERS[name], LAYERS[imported]
    fits = other_rank < rank and other_half in MAY_IMPORT[half]
    return not fits and not (in_function and (name, imported) in EXCEPTIONS)


def test_a_module_has_a_row_in_the_table_of_layers():
    assert set(SOURCES) - set(LAYERS) == set()


def test_imports_go_in_one_direction():
    def against(name):
        return [
            imported or "forkrpc"
            for target, in_function in imports(name)
            if (imported := own_module(target)) is not None
            and against_the_layers(name, imported, in_function)
        ]

    assert offenders(against) == {}


def test_nobody_imports_an_engine():
    importers = {
        (name, imported)
        for name in SOURCES
        for target, _ in imports(name)
        if (imported := own_module(target) or "").startswith("engines.")
    }

    assert importers <= set(EXCEPTIONS)


def test_an_engine_uses_the_public_names_only():
    allowed = {"forkrpc"} | {f"forkrpc.{public}" for public in PUBLIC}

    def private(name):
        if not name.startswith("engines."):
            return set()
        own = {target for target, _ in imports(name) if own_module(target) is not None}
        return own - allowed

    assert offenders(private) == {}


def test_the_childs_half_imports_little_at_import_time():
    def too_much(name):
        if LAYERS[name][0] == "parent":
            return set()
        loaded = {
            target.partition(".")[0]
            for target, in_function in imports(name)
            if not in_function and own_module(target) is None
        }
        return loaded - STDLIB_AT_IMPORT - MORE_AT_IMPORT.get(name, set())

    assert offenders(too_much) == {}


def test_no_function_is_long():
    def long(name):
        return {
            node.name: length
            for node in ast.walk(parse(name))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := code_lines(node)) > LONGEST_FUNCTION
        }

    assert offenders(long) == {}


def code_lines(function):
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function, clean=False) is not None:
        docstring = first.end_lineno - first.lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


def test_no_module_is_long():
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in SOURCES.items()
    }

    assert {name for name in lengths if lengths[name] > LONGEST_MODULE} == set()


def test_a_module_has_its_own_test():
    expected = [
        TESTED_ELSEWHERE.get(name, f"test_{name.replace('.', '_')}.py")
        for name in SOURCES
    ]

    assert [e for e in expected if not Path(__file__).with_name(e).exists()] == []


def test_no_row_is_left_of_a_module_that_has_its_test_elsewhere():
    assert set(TESTED_ELSEWHERE) <= set(SOURCES)


def test_the_exports_are_the_public_names():
    assert len(forkrpc.__all__) == len(set(forkrpc.__all__))
    assert set(forkrpc.__all__) <= PUBLIC
    for name in forkrpc.__all__:
        assert getattr(forkrpc, name) is not None
    for name in PUBLIC - set(forkrpc.__all__):
        assert not hasattr(forkrpc, name)


def test_dir_lists_the_exports():
    assert set(forkrpc.__all__) <= set(dir(forkrpc))


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        forkrpc.no_such_name  # noqa: B018


def test_the_package_itself_imports_nothing():
    assert [target for target, _ in imports("")] == []


def modules_of_a_bare_interpreter(program="pass"):
    """Return the names of the modules that *program* leaves loaded, without site."""
    source = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{program}\n"
        "names = sorted(sys.modules); import json; print(json.dumps(names))"
    )
    command = [sys.executable, "-I", "-S", "-c", source]
    output = subprocess.run(command, check=True, capture_output=True, timeout=30)
    return set(json.loads(output.stdout))


def test_importing_the_package_loads_itself_only():
    loaded = modules_of_a_bare_interpreter("import forkrpc")

    assert loaded & NOT_BY_IMPORT == set()
    assert loaded - modules_of_a_bare_interpreter() == {"forkrpc"}


@unless_editable
def test_a_fresh_worker_has_loaded_a_literal_list_of_modules():
    source = "import sys\ndef names(): return sorted(sys.modules)"
    with forkrpc.Forker() as template, template.eval(source).run("names") as proxy:
        loaded = set(proxy.call())

    assert loaded & NOT_IN_A_WORKER == set()
    assert loaded - modules_of_a_bare_interpreter() - IN_A_WORKER == set()
