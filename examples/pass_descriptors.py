"""Pass open files to a worker while it works.

Calls carry values, not descriptors.  So the program makes a pair of sockets and sends
one of them along when it starts the worker; descriptors travel through that pair.  Each
is announced by a call, for which the worker fetches it.

The files here are temporary ones that have no name by which the worker could open them.
The program prints:

    haiku: 3 lines
    limerick: 5 lines
    sonnet: 14 lines
"""

import os
import socket
import tempfile

from forkrpc import Forker

POEMS = {"haiku": 3, "limerick": 5, "sonnet": 14}


class LineCounter:
    """Counts the lines of files it is passed.  The worker makes one, and calls it.

    channel: the socket through which the descriptors come.
    """

    def __init__(self, channel):
        self.channel = channel

    def __call__(self, name):
        _, (fd,), _, _ = socket.recv_fds(self.channel, 1, maxfds=1)
        with open(fd) as file:
            return f"{name}: {sum(1 for line in file)} lines"


def main():
    ours, theirs = socket.socketpair()
    with theirs:
        rpc = Forker().send_fh(theirs).run(LineCounter)
    with ours, rpc:
        for name, lines in POEMS.items():
            with tempfile.TemporaryFile() as file:
                file.write(b"dum di dum\n" * lines)
                file.flush()
                os.lseek(file.fileno(), 0, os.SEEK_SET)  # the worker shares the offset
                answer = rpc.submit(name)
                socket.send_fds(ours, [b"\0"], [file.fileno()])
                print(answer.result())


if __name__ == "__main__":
    main()
