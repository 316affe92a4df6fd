"""The workers of a pool: starts and ends them, as `scheduling` decides.

All but `kill`, `close` and the like runs in the reactor's thread.
"""

import _thread
import signal
from _queue import SimpleQueue
from _thread import get_ident
from functools import partial
from math import inf
from time import monotonic

from .awaiter import CANCELLED, Awaiter
from .callbacks import last
from .death import Closed, Death, before_all
from .dispatch import Dispatch
from .errors import ClosedError, Error
from .fds import close_all
from .feed import Feed
from .gate import Gate
from .growth import Growth
from .items import Items
from .lending import Lending, LendingOverlapping
from .member import Member
from .retrying import retrying, tries_of
from .sizing import takes_worker
from .starting import connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .link import Link
    from .reactor import Timer
    from .scheduling import Place, Scheduler
    from .session import Session

SESSIONS: "dict[str, type[Session]]" = {
    "sync": Lending,
    "async": LendingOverlapping,
}


class Crew(Dispatch):
    """The queue and the workers of one pool.

    link: to a template of its own.  options: those of `run`; own: those of the pool.
    """

    def __init__(
        self,
        link: "Link",
        function: "str | Callable[..., Any]",
        options: "dict[str, Any]",
        scheduler: "Scheduler",
        *,
        name: str,
        own: "dict[str, Any]",
    ) -> None:
        room = own["queue_limit"] or inf
        super().__init__(link.program, name, options, room, scheduler)
        self._link = link
        self._function = function
        self.most = own["max"]
        self.counts_calls = own["max_calls"] is not None
        self._retries = own["retries"]
        self._grace = own["exit_grace"]
        self._fds: list[int] = own["fds"]
        self._tells_worker = takes_worker(options["on_event"])
        self._growth: Growth | None = None
        if own["max_growth"] is not None:
            reactor = self.program.reactor
            self._growth = Growth(reactor, own["max_growth"], self.hands)
        self._killed = self._finished = False
        self._ending: list[Member] = []  # have ended; their callbacks may not have run
        self._given_up: dict[Awaiter, None] = {}  # by `cancel` with kill, and sent
        self._managing = False  # `_manage` will run
        self._timer: Timer | None = None
        self._exit_since = 0.0  # when the program began to end
        self.program.ends[self] = None
        self.program.reactor.start()
        self.manage_soon()

    # What becomes of workers, in the reactor's thread.

    def leaves(self, member: Member) -> None:
        with self.lock:
            self.scheduler.leaves(member.place, monotonic())

    def take_back(self, calls: "list[Any]") -> None:
        with self.lock:
            for target in calls[1::2]:
                if isinstance(target, (Awaiter, Items)):
                    target.holder = None
            self.session.unsent.extendleft(reversed(calls))
        self.manage_soon()  # a thread may have come late, behind the worker's end

    def again(self, target: "Any", death: Death, call_id: int) -> "Any":
        if self._killed or death.setup is not None or death.timed_out == call_id:
            return None
        tries = tries_of(target, self._retries)
        if tries < 1:
            return None
        self.session.varied = True
        return retrying(target, tries - 1)

    def gone(self, member: Member, death: Death, lost: int) -> None:
        now = monotonic()
        with self.lock:
            self.scheduler.ended(member.place, now)
            self.members.pop(member.place, None)
        self._ending.append(member)
        member.ended.tell(_Bell(self))
        if not member.was_asked(lost):
            # Who was useful and is killed with nothing to do is no bad sign.
            counts = not death.timed_out and (lost or not member.place.proven)
            refused = counts and self._died(death, now)
            if refused or lost or death.timed_out or death.setup is not None:
                member.tell_error(death.error_of(death.timed_out))
            else:
                warn_of(death)
        self._manage()

    def _died(self, death: Death, now: float) -> bool:
        """A worker has died; return whether calls are refused from now on."""
        set_up = death.setup is None
        if not self.scheduler.trouble.death(now, set_up=set_up):
            return False
        if not set_up and self.scheduler.healthy():
            return False  # those that there are do what there is to do
        self.refuse(before_all(death))
        return True

    def refuses(self) -> bool:
        return self.scheduler.trouble.refuses(monotonic())

    def manage_soon(self) -> None:
        if not (self._managing or self.flow.inert):
            noting = partial(setattr, self, "_managing", True)
            self.program.reactor.soon(self._manage, noting)

    def _manage(self) -> None:
        """Start and end workers, fail what nobody can do, end it all."""
        self._managing = False
        now = monotonic()
        if now >= self._due:
            self._due = inf
        with self.lock:
            self._fail_hopeless()
            given = self._hand_on()
            missing = self.scheduler.to_start(self.backlog(), now)
            stopping = self.scheduler.to_stop(now)
            if self.closed is not None and not self.backlog():
                missing, stopping = 0, self.scheduler.takers()
            starting = [self.scheduler.started(now) for _ in range(missing)]
            for place in stopping:
                self.scheduler.dismissed(place)
        for member in given:
            member.flush()
        for place in starting:
            self._start(place)
        for place in stopping:
            self.members[place].close()
        if self._sleepers:
            self.wake_sleepers()
        if self._ending:
            self._ending = [each for each in self._ending if not each.ended.is_open()]
        if self.closed is None or self.backlog():
            self.look_again(now)
        elif not (self.members or self._ending):
            self._finish()
        self.deliver()

    def _fail_hopeless(self) -> None:
        if not self.backlog():
            return
        if self._killed:
            self.fail_queue(Death(self.session.name, None, None, begun=0))
        elif self._finished:
            self._fail_late(Closed(self.session.name, None, None))
        elif self.broken is not None and self.refuses():
            self._fail_late(self.broken)

    def _fail_late(self, death: Death) -> None:
        """Fail calls that came in when it was too late."""
        targets = list(self.session.unsent)[1::2]
        self.fail_queue(death)
        if not all(isinstance(each, (Awaiter, SimpleQueue)) for each in targets):
            self.session.call_soon(self.session.on_error, death.error_of(1))

    def look_again(self, now: float) -> None:
        delay = self.scheduler.look_again(now)
        if delay is not None and now + delay < self._due and not self.ended.is_open():
            self._due = now + delay
            self._timer = self.program.reactor.later(delay, self._manage)

    def _start(self, place: "Place") -> None:
        made = partial(Member, self, place)
        try:
            member = connect(self._link, self._function, self.options, SESSIONS, made)
        except Exception as error:  # such as SetupError: no descriptors are left
            with self.lock:
                self.scheduler.ended(place, monotonic())
            death = Death(self.session.name, None, None, setup=str(error))
            if not isinstance(error, Error):
                death.setup = f"{type(error).__name__}: {error}"
            self._died(death, monotonic())
            self.session.call_soon(self.session.on_error, death.error_of(0))
            return
        assert isinstance(member, Member)
        if self._tells_worker:
            tell, session = self.options["on_event"], member.session
            session.on_event = lambda *args: tell(*args, worker=session.pid)
        if self._killed:
            member.kill_quietly(signal.SIGKILL)
        if not member.life.over:  # else the template has ended, and `gone` was called
            self.members[place] = member

    def tick(self) -> bool:
        """Do what an interrupt left undone; return whether to look again."""
        self._ticking = False  # first: who calls now has it called again
        for member in self.hands():
            if self.missed(member):
                self.heard(member)
            if member.session.unsent:
                member.flush()
        for call in list(self._given_up):
            self._end_given_up(call)
        self._manage()
        self.wake_sleepers(all_of_them=True)
        undone = bool(self._sleepers) or (bool(self.loops.homes) and self.loops.tick())
        self._ticking = bool(self.outstanding()) or undone
        return self._ticking

    # The end.

    def feed(self, **settings: "Any") -> Feed:
        """Return how the items of a map get here; settings: as of Feed."""
        return Feed(self, self.most, singly=self.counts_calls, **settings)

    def outstanding(self) -> int:
        """Return how many calls have no answer."""
        here = self.session.outstanding()
        return here + sum(each.session.outstanding() for each in self.hands())

    def stats(self) -> "dict[str, int]":
        """Return how many workers and calls there are."""
        with self.lock:
            places = list(self.scheduler.places)
        return {
            "workers": len(places),
            "starting": sum(1 for each in places if not each.up),
            "busy": sum(1 for each in places if each.load),
            "idle": sum(1 for each in places if each.up and not each.load),
            "queued": self.session.outstanding(),
            "running": sum(each.load for each in places),
        }

    def kill_call(self, target: "Any") -> bool:
        """End the worker that executes the call; return whether it is cancelled."""
        call = target.stand_in or target
        member = call.holder
        if member is None:  # it has ended just now, or its worker has
            return bool(target.cancel())
        call.given_up = True
        self._given_up[call] = None  # first: `tick` looks whether it has begun
        call.settle(CANCELLED)
        self._end_given_up(call)
        return bool(target.cancelled())

    def _end_given_up(self, call: "Any") -> None:
        """End the worker that executes a call which nobody wants any more."""
        member = call.holder
        if member is None or not member.session.has(call):
            self._given_up.pop(call, None)
            return
        begun = member.life.begun()
        # A blocking worker that has begun another call is through with this one.
        overlap = self.options["backend"] == "async"
        if begun == call.call_id or (begun > call.call_id and overlap):
            self._given_up.pop(call, None)
            member.end_quietly()

    def close(self) -> None:
        """Take no more calls; what there is, is finished."""
        if self.closed is None:
            self.closed = "the pool was closed"
        self.session.take_no_more()
        self.manage_soon()

    def dropped(self) -> None:
        """The last reference to the pool is gone.  Takes no lock."""
        if self.closed is None:
            self.program.reactor.soon(self.close)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End all workers with a signal; calls fail with WorkerDied.  Any thread."""
        self._killed = True
        self.closed = self.closed or "the pool was killed"
        self.session.take_no_more()
        for member in self.hands():
            member.kill_quietly(number)
        self.manage_soon()

    def _finish(self) -> None:
        """All workers have ended."""
        if self._finished:
            return
        self._finished = True
        self.program.ends.pop(self, None)
        self._link.close()
        close_all(self._fds)
        if self._timer is not None:
            self._timer.cancel()
        if self._growth is not None:
            self._growth.stop()
        self.deliver()
        if self.options["pool_destroy"] is not None:
            self.session.call_soon(self._on_destroy, None)
        self.session.call_soon(last, self.ended)
        self.deliver()
        self.loops.close()
        while self._sleepers:
            self._sleepers.popleft().put(None)

    def _on_destroy(self, _: object) -> None:
        self.options["pool_destroy"]()

    def drain(self, timeout: "float | None" = None) -> bool:
        """Wait until the callbacks of all that was received so far have run."""
        if self.flow.inert:
            raise ClosedError(self.closed)
        limit = None if timeout is None else monotonic() + timeout
        for member in [*self.hands(), *self._ending]:
            left = None if limit is None else max(0.0, limit - monotonic())
            if not member.drain(left):
                return False
        done = Gate()

        def mark() -> None:
            self.session.call_soon(last, done)
            self.deliver()

        self.program.reactor.soon(mark)
        return done.wait(None if limit is None else max(0.0, limit - monotonic()))

    def close_at_exit(self) -> None:
        self._exit_since = monotonic()
        self.close()
        self.flow.close_those_of(get_ident())

    def wait_for_end(self, timeout: float) -> bool:
        if self._grace is None:
            return self.ended.wait(timeout)
        if self._grace == inf:
            return self.ended.wait(None)
        return self.ended.wait(max(0.0, self._exit_since + self._grace - monotonic()))

    def kill_at_exit(self) -> None:
        self.kill()

    def abandon(self) -> None:
        """Make this inert, in a forked copy of the program."""
        self.session.take_no_more()
        self.closed = "this process was forked from the one that owns the pool"
        self.flow.inert = True
        self.lock = _thread.RLock()  # another thread may have held it
        self.ended.open()
        self.loops.abandon()
        close_all(self._fds)


class _Bell:
    """Rung when the callbacks of a worker that has ended have run."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def put(self, _: None) -> None:
        self._crew.manage_soon()


def warn_of(death: Death) -> None:
    """Log that a worker which had nothing to do has ended by itself."""
    import logging

    logging.getLogger("forkrpc").warning("%s", death.error_of(0))
