"""End-to-end: every example is run as a user runs it, and prints what its text says."""

import ast
import os
import re
import signal
import subprocess
import sys

import pytest

from helpers import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def command(name, *args):
    # -X dev: a file or socket that an example forgets is told on stderr.
    return [sys.executable, "-X", "dev", EXAMPLES / f"{name}.py", *args]


def environment():
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


def run(name, *args, cwd):
    """Run an example; return the completed process, with its output as bytes."""
    return subprocess.run(
        command(name, *args),
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )


def promised(name):
    """Return the blocks of output shown at the top of an example, each as text."""
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    blocks = re.findall(r"(?:^    .*\n?)+", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]


def lines_of(block):
    return block.splitlines()


PRINTING = [
    *("unlinker", "pass_descriptors", "exec_program", "tokens"),
    *("unlinker_async", "countdowns", "arithmetic", "fetch_urls"),
    *("collatz", "executor", "amicable"),
]


@pytest.mark.parametrize("name", PRINTING)
def test_an_example_prints_the_lines_in_its_text(name, tmp_path):
    done = run(name, cwd=tmp_path)

    (expected,) = promised(name)
    # asyncio, asked for warnings, tells of a busy machine.
    slow = re.compile(rb"Executing <.*> took \d\.\d+ seconds\n")
    assert slow.sub(b"", done.stderr) == b""
    assert lines_of(done.stdout.decode()) == lines_of(expected)
    assert done.returncode == 0


def test_every_example_is_tested_and_says_what_it_prints():
    tested = {"checksums", "forward_logs", "prefork_server", *PRINTING}

    assert set(PROGRAMS) == tested
    for name in PROGRAMS:
        assert promised(name), name


def test_the_unlinker_says_nothing_of_what_it_could_remove(tmp_path):
    for number in range(1, 7):
        (tmp_path / "somepath" / str(number)).mkdir(parents=True)

    done = run("unlinker", cwd=tmp_path)

    assert done.stdout == b"3 requests handled\n6 requests handled\n"
    assert list((tmp_path / "somepath").iterdir()) == []


def test_the_logs_come_through_the_program_once_events_can_be_sent(tmp_path):
    done = run("forward_logs", cwd=tmp_path)

    before, after = promised("forward_logs")
    assert lines_of(done.stderr.decode()) == lines_of(before)
    assert lines_of(done.stdout.decode()) == lines_of(after)


def test_the_preforked_servers_share_the_clients_and_are_ended(tmp_path):
    done = run("prefork_server", cwd=tmp_path)

    first, *answers, count, last = lines_of(done.stdout.decode())
    (expected,) = promised("prefork_server")
    assert re.sub(r"\d+$", "37219", first) == lines_of(expected)[0]
    assert [count, last] == lines_of(expected)[-2:]
    shares = [re.fullmatch(r"pid (\d+) answered (\d+) clients", a) for a in answers]
    assert sum(int(share[2]) for share in shares) == 100
    assert 1 < len(shares) <= 10
    assert done.stderr == b""


# The main job.


def fill(folder):
    """Make a tree of files that are easy to get wrong."""
    (folder / "empty").touch()
    (folder / "with  two spaces").write_bytes(b"hello")
    (folder / "-n").write_bytes(b"looks like an option")
    (folder / "back\\slash").write_bytes(b"escaped")
    (folder / "new\nline").write_bytes(b"escaped, too")
    (folder / "größe").write_bytes(b"not ASCII")
    (folder / "larger").write_bytes(bytes(range(256)) * 20_000)
    (folder / ".hidden" / "deep" / "down").mkdir(parents=True)
    (folder / ".hidden" / "deep" / "down" / "file").write_bytes(b"\0" * 70_000)
    (folder / "more").mkdir()
    for number in range(50):
        (folder / "more" / f"{number}.txt").write_text("x" * number)
    with open(os.path.join(os.fsencode(folder), b"no utf-8 \xff"), "wb") as file:
        file.write(b"bytes")


def sha256sum(folder, cwd):
    """Return what the system's own program prints for the same files."""
    script = 'find "$1" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --'
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        ["sh", "-c", script, "sh", folder], cwd=cwd, env=environ, capture_output=True
    ).stdout


@pytest.mark.parametrize("options", [(), ("--workers", "1"), ("--workers", "5")])
def test_checksums_prints_what_sha256sum_prints(options, tmp_path):
    (tmp_path / "a tree").mkdir()
    fill(tmp_path / "a tree")

    done = run("checksums", *options, "a tree", cwd=tmp_path)

    expected = sha256sum("a tree", tmp_path)
    assert expected.count(b"\n") > 55
    assert done.stdout == expected
    assert done.returncode == 0


def test_checksums_shows_the_lines_in_its_text(tmp_path):
    (tmp_path / "DIR").mkdir()
    (tmp_path / "DIR" / "empty").touch()
    (tmp_path / "DIR" / "hello").write_text("hello")

    done = run("checksums", "DIR", cwd=tmp_path)

    assert lines_of(done.stdout.decode()) == lines_of(promised("checksums")[2])


def test_checksums_shows_progress_in_few_lines_where_there_is_no_terminal(tmp_path):
    (tmp_path / "large").write_bytes(bytes(2**20) * 8)

    done = run("checksums", ".", cwd=tmp_path)

    shown = [*lines_of(promised("checksums")[1])[:2], "75 %, 6.3 of 8.4 MB"]
    assert lines_of(done.stderr.decode()) == [*shown, "100 %, 8.4 of 8.4 MB"]


def test_checksums_leaves_out_links_and_pipes(tmp_path):
    (tmp_path / "file").write_text("hello")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")

    done = run("checksums", ".", cwd=tmp_path)

    assert done.stdout == sha256sum(".", tmp_path)
    assert done.stdout.count(b"\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_checksums_reports_what_it_cannot_read_and_goes_on(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    (tmp_path / "b").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)

    done = run("checksums", ".", cwd=tmp_path)

    complaints = done.stderr.decode()
    assert "checksums: ./b: Permission denied\n" in complaints
    assert "checksums: ./closed: Permission denied\n" in complaints
    assert [line[-3:] for line in lines_of(done.stdout.decode())] == ["./a", "./c"]
    assert done.returncode == 1


def test_checksums_reports_a_directory_that_is_missing(tmp_path):
    done = run("checksums", "nowhere", cwd=tmp_path)

    assert done.stdout == b""
    assert done.stderr == b"checksums: nowhere: No such file or directory\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), b"arguments are required: DIR"),
        (("--workers", "0", "."), b"at least one is needed"),
        (("--workers", "two", "."), b"invalid int value: 'two'"),
    ],
)
def test_checksums_explains_how_it_is_called(arguments, complaint, tmp_path):
    done = run("checksums", *arguments, cwd=tmp_path)

    assert done.stdout == b""
    assert b"usage: checksums.py" in done.stderr
    assert complaint in done.stderr
    assert done.returncode == 2


def on_terminal(*args, cwd):
    """Start checksums on a terminal of its own."""
    pexpect = pytest.importorskip("pexpect")
    program, *rest = map(str, command("checksums", *args))
    return pexpect.spawn(program, rest, cwd=str(cwd), env=environment(), timeout=20)


def rest_of(child):
    """Return what else a program prints; wait for its end."""
    rest = child.read()
    child.close()
    return rest


def test_checksums_rewrites_one_line_on_a_terminal(tmp_path):
    (tmp_path / "large").write_bytes(bytes(2**20) * 8)

    child = on_terminal(".", cwd=tmp_path)
    text = rest_of(child).decode()

    shown = re.findall(r"\r(\d+) %, ([\d.]+) of 8.4 MB\033\[K", text)
    assert shown[:2] == [("12", "1.0"), ("25", "2.1")]
    assert shown[-1] == ("100", "8.4")
    assert len(shown) == 8
    # What is left on the screen: of each line what came after it was last cleared.
    left = [line.rpartition("\r\033[K")[2] for line in text.split("\r\n")]
    assert left == [*lines_of(sha256sum(".", tmp_path).decode()), ""]
    assert child.exitstatus == 0


def test_ctrl_c_ends_checksums_at_once_and_without_a_word(tmp_path):
    with open(tmp_path / "long", "wb") as file:
        file.truncate(10**10)

    child = on_terminal(".", cwd=tmp_path)
    child.expect_exact("\r1 %")
    child.sendintr()
    rest = rest_of(child)

    assert b"\n" not in rest  # neither a traceback nor a digest
    assert child.signalstatus == signal.SIGINT
