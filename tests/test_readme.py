"""End-to-end: what README.rst shows is run, and what it names exists."""

import ast
import re
import sys

import pytest

import forkrpc
from forkrpc.options import DEFAULTS
from forkrpc.sizing import OWN
from helpers import CHECKOUT, run_program

README = (CHECKOUT / "README.rst").read_text(encoding="utf-8")


def code_blocks():
    """Return [(language, line number, text)] of the code blocks, in order."""
    lines = README.splitlines()
    blocks = []
    for at, line in enumerate(lines):
        if found := re.fullmatch(r"\.\. code-block:: (\w+)", line):
            body = []
            for each in lines[at + 1 :]:
                if each and not each.startswith("    "):
                    break
                body.append(each[4:])
            blocks.append((found[1], at + 1, "\n".join(body).strip("\n") + "\n"))
    return blocks


def examples():
    """Return a parameter (source, expected output) for each Python block.

    The output is the block of text that comes next, with no other block between; None
    where there is none.  Each block is a program of its own.
    """
    blocks = code_blocks()
    following = [*blocks[1:], ("", 0, "")]
    return [
        pytest.param(text, after if kind == "text" else None, id=f"line {at}")
        for (language, at, text), (kind, _, after) in zip(
            blocks, following, strict=True
        )
        if language == "python"
    ]


def section(title):
    """Return the text under a heading, up to the next one."""
    parts = re.split(r"^(.+)\n([-=])\2{2,}$", README, flags=re.MULTILINE)
    return dict(zip(parts[1::3], parts[3::3], strict=True))[title]


def rows(text):
    """Return [[cell, ...]] of the list tables in a text."""
    table = []
    for line in text.splitlines():
        if found := re.fullmatch(r"   (\*| ) - ?(.*)", line):
            if found[1] == "*":
                table.append([])
            table[-1].append(found[2])
        elif table and re.match(r"       \S", line):
            table[-1][-1] += " " + line.strip()
    return table


def commands():
    """Return the literal blocks that `::` begins, each one line."""
    return re.findall(r"::\n\n    (.+)\n(?!    )", README)


@pytest.mark.parametrize(("source", "expected"), examples())
def test_an_example_runs_and_prints_what_is_shown(source, expected):
    done = run_program(source)

    assert done.stderr == ""
    assert done.returncode == 0
    assert expected is None or done.stdout == expected


def test_there_are_examples_and_each_shows_its_output():
    assert len(examples()) >= 3
    assert all(expected for _, expected in (each.values for each in examples()))


def test_the_options_are_those_of_run_with_their_defaults():
    _, *table = rows(section("Options of ``run``"))

    shown = {name.strip("`"): value(default) for name, default, _ in table}
    assert shown == DEFAULTS
    assert list(shown) == list(DEFAULTS)


def value(cell):
    """Return the value of a default, such as ``None`` or ``2**32 - 1``."""
    return eval(compile(ast.parse(cell.strip("`"), mode="eval"), "README", "eval"))


@pytest.mark.parametrize("name", forkrpc.__all__)
def test_every_public_name_is_told_of(name):
    assert re.search(rf"\b{name}\b", README)


def test_every_name_of_the_package_exists():
    names = set(re.findall(r"\bforkrpc\.(\w+)", README))

    assert names <= {"__all__", *forkrpc.__all__}


def test_the_options_of_a_pool_are_its_own_with_their_defaults():
    tables = rows(section("Pools"))
    options = next(at for at, row in enumerate(tables) if row[0] == "option")
    table = [row for row in tables[options + 1 :] if len(row) == 3]

    shown = {name.strip("`"): value(default) for name, default, _ in table}
    assert shown == OWN
    assert list(shown) == list(OWN)


@pytest.mark.parametrize("kind", ["Forker", "Proxy", "Pool", "Executor", "Process"])
def test_every_method_is_told_of(kind):
    for name in vars(getattr(forkrpc, kind)):
        if not name.startswith("_") and name not in INNER[kind]:
            assert re.search(rf"``[^`]*\b{name}\b[^`]*``", README), name


# What the library itself calls.
INNER = {
    "Forker": set(),
    "Proxy": set(),
    "Pool": set(),
    "Executor": set(),
    "Process": {
        *("started", "refused", "exited", "close_at_exit", "outstanding"),
        *("wait_for_end", "kill_at_exit", "abandon"),
    },
}


def test_the_tree_of_errors_is_that_of_the_module():
    (tree,) = (text for kind, _, text in code_blocks() if "SetupError " in text)

    shown = set(re.findall(r"^\W*(\w+)", tree, re.MULTILINE))
    assert shown == set(sys.modules["forkrpc.errors"].__all__)


def test_every_module_has_its_line():
    package = CHECKOUT / "forkrpc"
    modules = {
        str(path.relative_to(package).with_suffix("")).removesuffix("/__init__")
        for path in package.rglob("*.py")
    }

    shown = [row[0].strip("`") for row in rows(section("For contributors"))]
    assert len(shown) == len(set(shown))
    assert set(shown) == modules


def test_the_main_job_and_the_tests_are_one_line_each():
    job, tests = commands()[:2]
    start = "python3 -m venv .venv && .venv/bin/pip install -q "

    assert job == f"{start}. && .venv/bin/python examples/checksums.py examples"
    assert tests == f"{start}'.[test]' && .venv/bin/python -m pytest -n 4"


def test_a_clean_machine_runs_the_tests_as_the_readme_does():
    _, tests = commands()[:2]
    script = (CHECKOUT / ".ci" / "run").read_text()

    make, install, run = tests.split(" && ")
    assert f'"$python" {make.removeprefix("python3 ").replace(".venv", "")}' in script
    assert install.rpartition(" ")[2] in script
    assert run.removeprefix(".venv/bin/python ") in script


def test_every_file_that_is_named_exists():
    folders = "tests|examples|benchmarks|forkrpc"
    names = set(re.findall(rf"\b(?:{folders})/[\w/.]*\w", README))

    assert names
    for name in names:
        assert (CHECKOUT / name).exists(), name
