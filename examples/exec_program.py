"""Execute other programs with their input and output where we want them.

A spawned process is small and forked in about a millisecond, however big the program
is.  It puts the files it was sent in the places of its stdin, stdout and stderr and
becomes the other program.  This one lets `sort` read a file and write to a pipe, then
has the messages of a program that fails put into a file.  It prints:

    apples
    bananas
    cherries
    sort ended with status 0
    sh ended with status 3 and said: out of fruit
"""

import os
import signal
import tempfile

from forkrpc import Forker


def execute(_sock, stdin, stdout, *command):
    """Become *command*, reading *stdin*, writing to *stdout*.  Runs in the process."""
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    os.dup2(stdout.fileno(), 2)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python had changed
    os.execvp(command[0], command)


def start(command, stdin, stdout):
    """Return the Process.  Its template is dropped, so no one else holds the files."""
    return Forker().send_fh(stdin, stdout).send_arg(*command).spawn(execute)


def sort_fruit():
    with tempfile.TemporaryFile() as fruit:
        fruit.write(b"cherries\napples\nbananas\n")
        fruit.seek(0)
        reader, writer = map(open, os.pipe(), "rw")
        with writer:
            process = start(["sort"], fruit, writer)
    with reader, process.sock:
        for line in reader:
            print(line, end="")
    print(f"sort ended with status {process.wait()}")


def fail():
    with open(os.devnull) as nothing, tempfile.TemporaryFile("w+") as messages:
        command = ["sh", "-c", "echo out of fruit >&2; exit 3"]
        process = start(command, nothing, messages)
        with process.sock:
            status = process.wait()
        messages.seek(0)
        print(f"sh ended with status {status} and said: {messages.read()}", end="")


def main():
    sort_fruit()
    fail()


if __name__ == "__main__":
    main()
