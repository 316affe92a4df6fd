"""Fetch a thousand pages at once in one worker, from a server on this machine.

The server answers each request after a tenth of a second; one after another the
requests would take more than a minute and a half.  A real program would use an HTTP
library in the worker.  It prints the sizes it has got, and that it took less than half
a minute:

    1000 pages, 1000 different, 17890 bytes
    all in less than 30 s
"""

import asyncio
import threading
import time

from forkrpc import Forker

PAGES = 1000
AT_ONCE = 250  # connections; `limit` holds the other calls back
WAIT = 0.1  # seconds until the server answers


async def fetch(port, path):
    """Return the body of one page.  Runs in the worker, in a task of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def answer(reader, writer):
    """Answer one request with its own path.  Runs in the program."""
    request = await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(WAIT)
    path = request.split()[1]
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nYou want " + path)
    writer.close()
    await writer.wait_closed()


class Server:
    """A server in a thread, for the time of a `with`; `port` is where it listens."""

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),))
        self._thread.start()
        ready.wait()
        return self

    async def _serve(self, ready):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=PAGES)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._stop.wait()

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def main():
    with (
        Server() as server,
        Forker().run(fetch, backend="async", limit=AT_ONCE, timeout=60) as rpc,
    ):
        begun = time.monotonic()
        calls = [rpc.submit(server.port, f"/page/{n}") for n in range(PAGES)]
        pages = [call.result() for call in calls]
        seconds = time.monotonic() - begun
    sizes = sum(map(len, pages))
    print(f"{len(pages)} pages, {len(set(pages))} different, {sizes} bytes")
    print(f"all in {'less' if seconds < 30 else 'more'} than 30 s")


if __name__ == "__main__":
    main()
