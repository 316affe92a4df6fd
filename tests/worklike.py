"""Stands for the feed of a map: answers when it is told to, in this process."""

from collections import deque

from forkrpc import atomic
from forkrpc.arguments import Arguments
from forkrpc.child.chunk import Chunks
from forkrpc.entries import Chunk
from forkrpc.errors import ClosedError
from forkrpc.serialisers import codec
from forkrpc.session import Session
from forkrpc.wire import LIMIT


class Feedlike:
    """queued: (call, job) pairs, to be answered.  cancelled: jobs."""

    def __init__(self, function=None, workers=1, *, chunked=True, most=None):
        self.name, self.workers = "m.f", workers
        self.chunked, self.most = chunked, most
        self.function = function  # what the worker executes
        self.queued, self.cancelled, self.soon = deque(), [], []
        self.closed = False
        self.codec = codec("pickle", lambda _: None)
        session = Session(self.name, LIMIT)
        session.use(self.codec)
        self._arguments = Arguments(session, LIMIT)
        self._chunks = Chunks(self, LIMIT)
        self.body, self.chunk_of = self._arguments.body, self._arguments.chunk_of
        self.chunk, self.later = self._arguments.chunk, self.soon.append

    def call(self, args):
        return self._arguments.waiting(args, {})

    def put(self, call, job, *also):
        if self.closed:
            raise ClosedError("closed")
        self.queued.append((call, job))
        atomic.at_once(*also)

    def cancel(self, job):
        self.cancelled.append(job)

    def answer(self, place=0):
        """Answer a call that is queued; return its job."""
        call, job = self.queued[place]
        del self.queued[place]
        if type(call) is Chunk:
            outcome = self._chunks.execute(self.codec, call)
        else:
            args = self.codec.load(call) if type(call) is bytes else (call,)
            outcome = self.function(*args)
        job.settle(outcome)
        return job
