"""The jobs of a map on their way, without waiting: queued, answered, handed over.

A job is in one place at a time: with its `making`, among the *jobs* that are queued, or
its results are in `parts`, from where an iterator takes them.  It moves on by one call
into C, so an interrupt loses nothing and doubles nothing.
"""

from collections import deque
from functools import partial
from itertools import repeat
from time import perf_counter

from . import atomic
from .chunks import results_of, seconds_of
from .errors import Error
from .loading import Failure, Loader
from .making import PENDING, Job, Making
from .pacing import Pacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .feed import Feed
    from .source import Source

UNDER_WAY = 3  # chunks for each worker: the one that it executes, the next, one more
AHEAD = 8  # chunks for each worker that are taken and not handed over
SLOW = 1e-3  # seconds; results do not wait while the next items take longer than that


class ItemLoader(Loader):
    """Loads the results of items."""

    def text_of(self, call_id: int) -> str:
        return f"item {call_id} of a map of {self._name}"


class Jobs:
    """The jobs of one map; one thread at a time.

    told: where outcomes are put, an Inbox or another queue.  chunksize: None: chosen
    from what items take.  ordered: results come in the order of the items, else in that
    of completion.  bar: shows how many have come, as tqdm does.

    parts: lists of results, to be taken; after the last: None.
    over: there will be no more.  failure: to be raised behind `parts`.
    """

    def __init__(
        self,
        feed: "Feed",
        source: "Source",
        told: "Any",
        *,
        chunksize: "int | None",
        ordered: bool,
        bar: "Any" = None,
    ) -> None:
        self.feed, self.source = feed, source
        self.parts: deque[Any] = deque()
        self.over = False
        self.failure: Failure | None = None
        self._told = told
        self._ordered = ordered
        self._bar = bar
        self._chunked = feed.chunked and chunksize != 1
        self._making = Making(feed, source, told, chunked=self._chunked)
        self._pacing = Pacing(feed.workers, chunksize if self._chunked else None)
        self._loader = ItemLoader(feed.name, feed.codec)
        self._jobs: dict[Job, None] = {}
        self._arrived: deque[tuple[Job, object]] = deque()
        self._done: deque[Job] = deque()  # where results come as they are completed
        self._put = self._answered = 0  # jobs
        self._slow = False  # the source
        self._since = 0.0  # when the last outcomes have come
        self._lists: list[list[Any]] = []  # that were handed over last

    def step(self, ending: object) -> bool:
        """Do what can be done now; return False if an outcome has to come first.

        Else something is in `parts`, with *ending* behind lists, or it is over.
        """
        while not (self.parts or self.over):
            self._collect()
            filled = False
            if not (self._slow and self._ready()):
                filled = self._fill()
            ready = self._ready()
            if ready:
                self._hand_over(ready, ending)
            elif self._making.used_up and not (self._jobs or self._making.made):
                self._end()
            elif not filled:
                return False
        return True

    def wait(self) -> None:
        """Wait for an outcome, told in an Inbox."""
        self._arrived.extend(map(self._told.get, (True,)))

    # Items become jobs.

    def has_room(self) -> bool:
        """Return whether another job may be under way."""
        most, workers = self.feed.most, self.feed.workers
        if most is None and not self._chunked:
            most = 1 + self._pacing.size(None)
        elif most is None:  # while chunks grow, a second one of a size is a waste
            most = UNDER_WAY if self._pacing.settled else 1
        under_way = self._put - self._answered
        ahead = max(AHEAD, 2 * most) * workers
        return under_way < most * workers and len(self._jobs) < ahead

    def wanted(self) -> int:
        """Return how many items the next job has, if there are so many."""
        if not self._chunked:
            return 1
        length = self.source.length
        left = None if length is None else max(0, length - self._making.taken)
        return self._pacing.size(left)

    def held(self) -> int:
        """Return how many items may be held by a source that takes them on its own.

        One, if what makes the next item may change it meanwhile.
        """
        return self.wanted() if self._making.plain else 1

    def _fill(self) -> bool:
        """Queue jobs, one if the items come slowly; return whether there was one."""
        filled, making = False, self._making
        while self.has_room() and (making.made or not making.used_up):
            if making.made is None:
                begun = perf_counter()
                making.make(self.wanted())
                took = perf_counter() - begun
                self._slow = took > SLOW
                if making.made is None:
                    break
                self._pacing.note_taking(making.made.count, took)
            job = making.made
            filled = True
            try:
                self.feed.put(
                    job.call,
                    job,
                    partial(self._jobs.__setitem__, job, None),
                    partial(setattr, self, "_put", self._put + 1),
                    making.queued(),
                )
            except Error as error:  # no more calls are taken
                making.end(error)
            if self._slow:
                break
        return filled

    # Outcomes become results.

    def _collect(self) -> None:
        """Give jobs the outcomes that have come."""
        arrived, told = self._arrived, self._told
        arrived.extend(map(told.get, repeat(False, told.qsize())))
        came = singles = 0
        while arrived:
            job, outcome = arrived[0]
            if job not in self._jobs or job.outcome is not PENDING:
                arrived.popleft()
                continue
            steps = [] if self._ordered else [partial(self._done.append, job)]
            atomic.at_once(
                partial(setattr, job, "outcome", outcome),
                partial(setattr, self, "_answered", self._answered + 1),
                *steps,
                arrived.popleft,
            )
            came += job.count
            if job.alone:
                singles += 1
            elif type(outcome) is bytes:
                size = max(len(outcome), len(job.call))  # type: ignore[arg-type]
                self._pacing.note(job.count, seconds_of(outcome), size)
        if came and self._bar is not None:
            self._bar.update(came)
        if singles and not self._chunked:
            now = perf_counter()
            self._pacing.note(singles, now - self._since)
            self._since = now
        elif singles:
            self._pacing.settled = True  # so long that they are calls of their own

    def _ready(self) -> "list[Job]":
        """Return the jobs whose turn it is."""
        if not self._ordered:
            return list(self._done)
        ready: list[Job] = []
        for job in list(self._jobs):
            if job.outcome is PENDING:
                break
            ready.append(job)
        return ready

    def _hand_over(self, ready: "list[Job]", ending: object) -> None:
        """Move the results of jobs to `parts`, up to the first failure."""
        lists: list[list[Any]] = [[]]
        failure, used = None, 0
        for job in ready:
            found, failure = self._results_of(job)
            if job.alone:
                lists[-1] += found[0]
            else:
                lists += found
            used += 1
            if failure is not None:
                break
        ended = failure is not None
        atomic.at_once(
            partial(setattr, self, "_lists", lists),
            partial(self.parts.extend, (*lists, ending)),
            partial(deque, map(self._jobs.pop, ready[:used]), 0),
            partial(
                atomic.drop, atomic.leftmost(self._done, used * (not self._ordered))
            ),
            partial(setattr, self, "failure", failure),
            partial(setattr, self, "over", ended),
        )
        if ended:
            self.stop()

    def _results_of(self, job: Job) -> "tuple[list[list[Any]], Failure | None]":
        """Return lists of results, one of a call that is alone, and the failure."""
        outcome = job.outcome
        if isinstance(outcome, Failure):
            return [[]], outcome
        if job.alone:
            return [[outcome]], None
        lists: list[list[Any]] = []
        place = job.first
        pieces, error = results_of(outcome)  # type: ignore[arg-type]
        for plain, results in pieces:
            found, failure = results, None
            if not plain:
                found, failure = self._loaded(results, place)
            lists.append(found)
            place += len(found)
            if failure is not None:
                return lists, failure
        if error is None:
            return lists, None
        return lists, self._loader.error(error, place)

    def _loaded(
        self, bodies: "list[Any]", first: int
    ) -> "tuple[list[Any], Failure | None]":
        results: list[Any] = []
        for number, body in enumerate(bodies, first):
            result = self._loader.result(body, number)
            if isinstance(result, Failure):
                return results, result
            results.append(result)
        return results, None

    # The end.

    def _end(self) -> None:
        error = self.source.error
        failure = None if error is None else Failure(error)  # type: ignore[arg-type]
        atomic.at_once(
            partial(setattr, self, "failure", failure),
            partial(setattr, self, "over", True),
        )

    def stop(self) -> None:
        """Take no more, and cancel what has not started; may be done again."""
        self.over = True
        for job in list(self._jobs):
            job.forget()
            if job.outcome is PENDING:
                self.feed.cancel(job)
            self._jobs.pop(job, None)
        self._done.clear()
        self._arrived.clear()
        self._making.end()
        if self._bar is not None:
            self._bar.close()

    def close(self) -> None:
        """Stop, and drop the results that are not taken."""
        self.over = True
        self.failure = None
        atomic.at_once(self.parts.clear, partial(self.parts.append, None))
        for each in self._lists:
            each.clear()
        self.stop()
        self._told.append((None, None))  # for a thread that waits

    def dropped(self) -> None:
        """Stop soon.  Takes no lock: may run anywhere."""
        self.parts.clear()
        if not self.over or self._jobs:
            self.over = True
            self.feed.later(self.stop)

    def __str__(self) -> str:
        if self.failure is not None:
            state = "failed"
        else:
            state = "ended" if self.over else "open"
        return f"a map of {self.feed.name}, {state}"
