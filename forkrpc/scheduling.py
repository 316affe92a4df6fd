"""Which worker gets the next calls, when to start or stop one: decisions only.

The time is told to it, in seconds of one clock; `crew` carries out what it decides.  A
worker gets calls when it is up, never while it starts: who cannot be set up costs none.
"""

from math import ceil, inf

BLOCK_WORK = 1e-3  # seconds of work that a worker is given at once
LEAST_WORK = 2e-4  # seconds of work that is not worth to be shared out
WAKE = 5e-5  # seconds that an idle worker takes to begin
MOST_BLOCK = 2048  # calls that a worker is given at once
SHARE = 4  # so many times all workers are given something before the queue is empty
HOPELESS = 3  # deaths without an answer in between, behind which calls are refused
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds until a worker is tried again


class Place:
    """One worker.  Hashed by identity.

    load: calls that it has and that have no answer.
    left: calls that it may still be given.
    up: it is set up.  leaving: it gets no more calls, and ends.
    occupied: it gets none before it has answered those that it has.
    since: when it last became idle.
    spent: seconds for which it had executed calls, when that was last looked at.
    done: calls that it has answered since.
    proven: it has answered some.
    """

    __slots__ = (
        "done",
        "leaving",
        "left",
        "load",
        "number",
        "occupied",
        "proven",
        "since",
        "spent",
        "up",
    )

    def __init__(self, number: int, left: float, now: float) -> None:
        self.number = number
        self.left = left
        self.load = self.done = 0
        self.spent = 0.0
        self.up = self.leaving = self.occupied = self.proven = False
        self.since = now

    def __repr__(self) -> str:
        state = "leaving" if self.leaving else "up" if self.up else "starting"
        return f"<Place {self.number}, {state}, load {self.load}>"


class Scheduler:
    """Decides for the workers of one pool.

    most: workers, but for those that leave and have nothing to do.
    idle: so many at least have nothing to do, as far as *most* allows.
    load: calls that a worker has at most; "auto": as many as take BLOCK_WORK.
    start: seconds that calls wait before one more worker is started.
    stop: seconds until a worker ends that has nothing to do and is not needed.
    calls: that a worker is given in its life.
    exact: *load* is a bound, also where calls take almost no time.

    A blocking worker whose calls take microseconds has more of them, but with load=1: a
    block of as many as take BLOCK_WORK.
    """

    def __init__(
        self,
        *,
        most: int,
        idle: int = 0,
        load: "int | str" = 2,
        start: float = 0.1,
        stop: float = 10.0,
        calls: float = inf,
        exact: bool = False,
    ) -> None:
        self.places: dict[Place, None] = {}
        self.trouble = Trouble()
        self._most = most
        self._idle = idle
        self.keeps_idle = self._idle > 0
        self._load = 1 if load == "auto" else int(load)
        self.exact = exact or load == 1
        self._start = start
        self._stop = stop
        self._calls = calls
        self._numbers = 0
        self._pace: float | None = None  # seconds a call takes; slow ones weigh most
        self._waiting: float | None = None  # since when calls wait for a worker
        self._vacant: list[float] = []  # when workers ended that shall be replaced

    # What has happened.

    def started(self, now: float) -> Place:
        """A worker is being started."""
        self._numbers += 1
        left = self._calls
        if left != inf:  # they shall not all be replaced at one time
            left -= self._numbers * 7919 % (left // 8 + 1)
        place = Place(self._numbers, left, now)
        self.places[place] = None
        if self._vacant:
            self._vacant.pop()
        if self._waiting is not None:
            self._waiting = now
        return place

    def came_up(self, place: Place, now: float) -> None:
        if not place.up:
            place.up, place.since = True, now
            self.trouble.came_up()

    def given(self, place: Place, count: int) -> None:
        """It has *count* calls more."""
        place.load += count
        place.left -= count
        if place.left <= 0:
            place.leaving = True

    def answered(self, place: Place, load: int, spent: float, now: float) -> None:
        """It has so many calls now, and has executed calls for so long."""
        done, place.load = place.load - load, load
        if not load:
            place.occupied = False
        if done <= 0:
            return  # more, where an interrupt came between giving and telling
        place.done += done
        place.proven = True
        if spent > place.spent:
            pace = (spent - place.spent) / place.done
            place.spent, place.done = spent, 0
            if self._pace is not None and pace < self._pace:
                pace = (3 * pace + self._pace) / 4
            self._pace = pace
        if not load:
            place.since = now
        self.trouble.clear()
        if place.leaving and not load:
            self._vacant.append(now)

    def leaves(self, place: Place, now: float) -> None:
        """It gets no more calls, and ends when it is done."""
        if not place.leaving:
            place.leaving = True
            if not place.load:
                self._vacant.append(now)

    def dismissed(self, place: Place) -> None:
        """It ends, and nobody takes its place."""
        place.leaving = True

    def ended(self, place: Place, now: float) -> None:
        """Its process is gone, with the calls that it had."""
        if place in self.places:
            del self.places[place]
            if place.load or not place.leaving:
                self._vacant.append(now)

    # What to do.

    def block(self, place: Place, backlog: int) -> int:
        """Return how many of *backlog* calls this worker is to get now."""
        return self._room(place, backlog, self._size(backlog))

    def _room(self, place: Place, backlog: int, size: int) -> int:
        """Return the same, where each worker shall have *size* calls."""
        load = place.load
        if not place.up or place.leaving or place.occupied:
            return 0
        if load >= self._load and 2 * load > size:
            return 0
        return int(min(max(0, size - load), place.left, backlog))

    def _size(self, backlog: int) -> int:
        """Return how many calls a worker shall have."""
        if self.exact or self._pace is None:
            return self._load
        second = 1 / max(self._pace, 1e-9)  # calls that take one
        share = max(
            int(LEAST_WORK * second), ceil(backlog / (SHARE * max(1, len(self.places))))
        )
        return max(self._load, min(share, int(BLOCK_WORK * second), MOST_BLOCK))

    def next_block(self, backlog: int) -> "tuple[Place, int] | None":
        """Return who is to get how many of *backlog* calls next, None for nobody.

        That is who has least to do: of those alike, the one started first.
        """
        size, pace = self._size(backlog), self._pace
        best, least, count = None, inf, 0
        for place in self.places:  # a hundred of them, perhaps, at each call
            load = place.load
            if not place.up or place.leaving or place.occupied:
                continue
            if load >= self._load and 2 * load > size:
                continue
            count += 1
            if load < least:
                best, least = place, load
        if best is None:
            return None
        fair = ceil(backlog / count)
        if pace is not None:
            fair = max(fair, int(LEAST_WORK / max(pace, 1e-9)))
        return best, min(self._room(best, backlog, size), fair)

    def gather(self) -> "int | None":
        """Return how many calls may gather before a block is asked for.

        As many as the next worker has: frames grow, and it never runs dry.  While one
        is at work whose calls are quick, it answers before another one would be awake,
        and is given more then.  None: nobody has room.
        """
        found = self.next_block(1)
        if found is None:
            return None
        load = found[0].load
        pace = self._pace
        if pace is None or pace >= WAKE or not any(each.load for each in self.places):
            return max(1, load)
        return max(load, int(LEAST_WORK / max(pace, 1e-9)))

    def may_grow(self) -> bool:
        """Return whether there may be more workers."""
        counted = sum(1 for each in self.places if each.load or not each.leaving)
        return counted < self._most

    def waits(self) -> bool:
        """Return whether time alone will start a worker."""
        return self._waiting is not None

    def takers(self) -> "list[Place]":
        """Return the workers that may get calls."""
        return [place for place in self.places if place.up and not place.leaving]

    def to_start(self, backlog: int, now: float) -> int:
        """Return how many workers to start."""
        counted = [each for each in self.places if each.load or not each.leaving]
        most = self._most_now()
        if len(counted) >= most or self.trouble.refuses(now):
            self._waiting = None
            return 0
        starting = sum(1 for place in counted if not place.up)
        waits = backlog > 0 and self.next_block(backlog) is None
        free = sum(1 for place in counted if not (place.load or place.leaving))
        self._vacant = [each for each in self._vacant if now - each < self._stop]
        at_work = backlog > 0 or any(place.load for place in counted)
        needed = max(
            ceil(backlog / self._load) - starting if waits else 0,
            self._idle - free,
            len(self._vacant) if at_work else 0,  # who was needed will be
        )
        if needed <= 0:
            self._waiting = None
            return 0
        return min(most - len(counted), self._now_of(needed, len(counted), now))

    def _most_now(self) -> int:
        """Return how many workers there may be; in trouble one more is tried."""
        most = self._most
        if not self.trouble.lasts():
            return most
        return min(most, 1 + (self.healthy() if self.trouble.of_set_up else 0))

    def healthy(self) -> int:
        """Return how many workers can go on, though others cannot be set up."""
        return len(self.takers())

    def _now_of(self, needed: int, counted: int, now: float) -> int:
        """Return how many of the workers that are needed are to be started now."""
        if not self._start:
            return needed
        at_once = max(1 if not counted else 0, self._idle - counted, len(self._vacant))
        if self._waiting is None:
            self._waiting = now
        if now >= self._waiting + self._start:
            at_once = max(at_once, 1)
        return min(needed, at_once)

    def to_stop(self, now: float) -> "list[Place]":
        """Return the workers that are not needed any more."""
        idle = [place for place in self.takers() if not place.load]
        old = [place for place in idle if now >= place.since + self._stop]
        old.sort(key=lambda place: (place.since, -place.number))
        return old[: max(0, len(idle) - self._idle)]

    def look_again(self, now: float) -> "float | None":
        """Return in how many seconds time alone changes what is to be done."""
        due: list[float] = []
        if self._waiting is not None:
            due.append(self._waiting + self._start)
        idle = [place.since for place in self.takers() if not place.load]
        if len(idle) > self._idle and self._stop != inf:
            due.append(min(idle) + self._stop)
        if self._idle and self.trouble.refuses(now):
            due.append(self.trouble.until)
        return max(0.0, min(due) - now) if due else None


class Trouble:
    """Workers that die or cannot be set up, and answer nothing in between.

    until: when a worker may be tried again.
    of_set_up: the last one could not be set up.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.of_set_up = False
        self._deaths = 0
        self._pause = 0.0

    def clear(self) -> None:
        """A call has an answer; which does not tell that more could be set up."""
        self._deaths = 0
        if not self.of_set_up:
            self._pause = 0.0

    def came_up(self) -> None:
        """A worker was set up; which is an end of trouble if others could not be."""
        if self.of_set_up:
            self.of_set_up = False
            self.clear()

    def death(self, now: float, *, set_up: bool) -> bool:
        """A worker has ended; return whether it is to be feared that all would.

        set_up: whether it could be; also where it was killed before it was.
        """
        self.of_set_up = not set_up
        self._deaths += set_up
        if set_up and self._deaths < HOPELESS:
            return False
        if now >= self.until or not self._pause:  # else it was started before
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            self.until = now + self._pause
        return True

    def lasts(self) -> bool:
        """Return whether no call was answered since calls were refused."""
        return bool(self._pause)

    def refuses(self, now: float) -> bool:
        """Return whether calls fail at once."""
        return bool(self._pause) and now < self.until
