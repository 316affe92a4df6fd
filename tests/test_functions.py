"""Unit: how a function is described in the parent and found in the worker."""

import functools
import os.path
import sys

import pytest

from forkrpc import functions
from helpers import run_program


class Outer:
    def method(self):
        pass

    @staticmethod
    def static(value):
        return value + 1

    @classmethod
    def of_class(cls):
        return cls

    class Inner:
        def __call__(self):
            pass


def plain(value):
    return value + 1


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated
def wrapped(value):
    return value + 1


def hidden(value):
    return value + 1


same_name = decorated(hidden)  # says that it is `hidden`, which it is not


def local():
    def inner():
        pass

    return inner


class Imposter:
    """An object that says that it is the function `plain`."""

    __module__ = __name__
    __qualname__ = "plain"

    def __call__(self):
        pass


# In the parent.


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("os.path.join", ("name", "os.path.join")),
        ("name", ("bare", "name")),
        ("größe", ("bare", "größe")),
        ("_m._f", ("name", "_m._f")),
    ],
)
def test_a_text_is_taken_as_the_name_it_is(function, expected):
    assert functions.describe(function) == expected


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a.b()", "1a", "a-b", "os.path:join"]
)
def test_a_text_that_is_no_dotted_name_is_an_error_with_it_and_the_remedy(name):
    with pytest.raises(ValueError, match=r"package\.module\.name") as caught:
        functions.describe(name, "init")

    assert f"init {name!r}" in str(caught.value)


@pytest.mark.parametrize("thing", [None, 7, b"os.getpid", [], ("a", "b")])
def test_a_thing_that_cannot_be_called_is_an_error_with_it_and_the_remedy(thing):
    with pytest.raises(TypeError, match="a dotted name or a callable") as caught:
        functions.describe(thing, "done")

    assert str(caught.value).startswith("done must be")
    assert repr(thing) in str(caught.value)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain, f"{__name__}.plain"),
        (wrapped, f"{__name__}.wrapped"),
        (Outer, f"{__name__}.Outer"),
        (Outer.Inner, f"{__name__}.Outer.Inner"),
        (Outer.static, f"{__name__}.Outer.static"),
        (os.path.join, "posixpath.join"),
        (os.getpid, "posix.getpid"),
        (len, "builtins.len"),
        (dict, "builtins.dict"),
    ],
)
def test_what_can_be_imported_is_described_by_its_name(function, name):
    assert functions.describe(function) == ("name", name)
    assert functions.resolve("name", name) is function


@pytest.mark.parametrize(
    "function",
    [
        *(lambda: 0, local(), functools.partial(plain, 1), Outer.Inner()),
        *(Outer().method, [].append, Imposter(), same_name),
    ],
)
def test_anything_else_goes_by_value(function):
    how, what = functions.describe(function)

    assert how == "value"
    assert what is function
    assert functions.resolve(how, what) is function


def test_a_class_method_is_found_as_itself():
    described = functions.describe(Outer.of_class)

    assert functions.resolve(*described)() is Outer


def test_a_function_of_the_main_module_goes_by_value():
    done = run_program(
        """
        from forkrpc import functions

        def function(): pass
        class Kind: pass
        print([functions.describe(each)[0] for each in (function, Kind)])
        """
    )

    assert done.stdout == "['value', 'value']\n"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("os.path.join", "os.path.join"),
        (plain, "plain"),
        (Outer.static, "Outer.static"),
        (functools.partial(plain), "partial"),
        (Outer.Inner(), "Outer.Inner"),
    ],
)
def test_a_function_has_a_short_name_for_messages(function, name):
    assert functions.name_of(function) == name


# In the worker.


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a module, and one whose import fails."""
    folder = tmp_path / "package_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "class Kind:\n    def method(self): return 1\n\nvalue = None\n"
        "def both(): return 'attribute'\n"
    )
    (folder / "module.py").write_text("def function(): return 'found'\n")
    (folder / "broken.py").write_text("import no_such_module_at_all\n")
    (folder / "raising.py").write_text("1 / 0\n")
    (folder / "both.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "package_of_a_test"
    for name in [name for name in sys.modules if name.startswith("package_of_a_test")]:
        del sys.modules[name]


def test_the_longest_importable_prefix_is_imported(package):
    function = functions.resolve("name", f"{package}.module.function")

    assert function() == "found"
    assert f"{package}.module" in sys.modules


def test_what_comes_behind_the_module_is_looked_up(package):
    method = functions.resolve("name", f"{package}.Kind.method")

    assert method(None) == 1


def test_an_attribute_is_found_before_a_module_of_its_name_is_imported(package):
    assert functions.resolve("name", f"{package}.both")() == "attribute"


@pytest.mark.parametrize(
    ("rest", "error", "text"),
    [
        ("no_such", AttributeError, "package_of_a_test has no attribute 'no_such'"),
        ("module.no_such", AttributeError, "module has no attribute 'no_such'"),
        ("Kind.no_such", AttributeError, "Kind has no attribute 'no_such'"),
        ("broken.function", ImportError, "no_such_module_at_all"),
        ("raising.function", ZeroDivisionError, "division"),
        ("module", TypeError, "which cannot be called"),
        ("value", TypeError, "is None, which cannot be called"),
    ],
)
def test_what_is_not_found_is_told_with_the_place_where_it_is_missing(
    package, rest, error, text
):
    with pytest.raises(error, match=text):
        functions.resolve("name", f"{package}.{rest}")


def test_a_package_that_is_missing_is_an_import_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        functions.resolve("name", "no_such_package.module.function")


def test_a_bare_name_is_looked_up_in_the_main_module(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "bare_name", plain, raising=False)

    assert functions.resolve("bare", "bare_name") is plain


def test_a_bare_name_that_is_not_there_is_told():
    with pytest.raises(AttributeError, match="'no_such_name': __main__ has no"):
        functions.resolve("bare", "no_such_name")


def test_a_bare_name_that_cannot_be_called_is_told(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "bare_name", 7, raising=False)

    with pytest.raises(TypeError, match="'bare_name' is 7, which cannot be called"):
        functions.resolve("bare", "bare_name")


class Called:
    async def __call__(self):
        pass


async def coroutine_function():
    pass


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (coroutine_function, True),
        (Called(), True),
        (Called().__call__, True),
        (len, False),
        (lambda: None, False),
        (Called, False),
    ],
)
def test_a_coroutine_function_is_known(function, expected):
    assert functions.is_coroutine(function) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("os.getpid", os.getpid),
        ("os.path.join", os.path.join),
        ("os.no_such_thing", None),
        ("no_such_module.function", None),
    ],
)
def test_what_is_loaded_is_found_without_an_import(name, expected):
    assert functions.loaded(name) is expected
