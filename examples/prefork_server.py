"""Serve a port with ten processes that were forked beforehand.

All of them wait in `accept` on one listening socket, and the system hands each
connection to one that is idle.  They execute one function, without any calls: that is
what `spawn` is for.  The program then plays some clients, tells who answered, and ends
the servers (as would happen by itself at its end).  It prints something like this:

    10 servers on port 37219
    pid 5077 answered 9 clients
    pid 5078 answered 12 clients
    ...
    100 clients were answered
    10 servers were ended by SIGTERM
"""

import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack

from forkrpc import Forker

SERVERS = 10
CLIENTS = 100


def serve(sock, listener):
    """Answer each line of a client with our process id.  Runs in each server.

    sock: the other end of `Process.sock`; here it says that this server is up.
    """
    sock.send(b"!")
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            for _line in stream:
                print(os.getpid(), file=stream, flush=True)


def ask(address, count):
    """Return the answers that *count* clients get, who are connected all at once."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(address)) for _ in range(count)
        ]
        for client in clients:
            client.sendall(b"who are you?\n")
            client.shutdown(socket.SHUT_WR)
        return [int(stack.enter_context(each.makefile()).read()) for each in clients]


def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        template = Forker().send_fh(listener)
        address = listener.getsockname()
    servers = [template.spawn(serve) for _ in range(SERVERS)]
    for server in servers:
        server.sock.recv(1)
    print(f"{len(servers)} servers on port {address[1]}")

    answers = Counter(ask(address, CLIENTS))
    for pid, count in sorted(answers.items()):
        print(f"pid {pid} answered {count} clients")
    print(f"{answers.total()} clients were answered")

    for server in servers:
        server.kill(signal.SIGTERM)
        server.sock.close()
    ends = Counter(server.wait() for server in servers)
    for returncode, count in ends.items():
        print(f"{count} servers were ended by {signal.Signals(-returncode).name}")


if __name__ == "__main__":
    main()
