"""A worker that has a process of its own for each call: it forks them, one ahead.

The keeper, which the program knows as the worker, does nothing but fork, wait, and end
as one of them did.  They take turns: whose turn it is may use the connection; it
executes one call, hands the turn on, and leaves.  So what two of them say never mixes.
"""

import _signal  # type: ignore[import-not-found]
import gc
import os

from ..progress import ANSWERED
from ..system import LIFELINE_SIGNAL, end_by_signal, end_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..progress import Page

AHEAD = 2  # processes that have not answered: whose turn it is, and one to come
MOST = 16  # processes of one keeper, with those that have answered and take long to end
GRACE = 0.02  # seconds for the others to leave when one has died
CLOSED = 2**64 - 1  # in place of the number of a process: nobody's turn comes any more
_WAKES = (_signal.SIGCHLD, _signal.SIGTERM)


class Turns:
    """Tells the processes of one worker whose turn it is; they count from 1.

    A word of the page says it.  A byte in a pipe wakes who waits: one pipe for even
    numbers and one for odd ones, since two may wait at a time.
    """

    def __init__(self, page: "Page") -> None:
        self._words = page.words
        self._pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(2)]
        for bell, _ in self._pipes:
            os.set_blocking(bell, True)

    def last(self) -> int:
        """Return the number of the last process that has handed on its turn."""
        last: int = self._words[ANSWERED]
        return last

    def wait(self, number: int) -> bool:
        """Wait for the turn of process *number*; return whether it has come."""
        bell, _ = self._pipes[number % 2]
        while self._words[ANSWERED] < number - 1:
            os.read(bell, 4096)
        return self._words[ANSWERED] != CLOSED

    def hand_on(self, number: int) -> None:
        self._words[ANSWERED] = number
        self.wake(number + 1)

    def close(self) -> None:
        self._words[ANSWERED] = CLOSED
        self.wake(0)
        self.wake(1)

    def wake(self, number: int) -> None:
        try:
            os.write(self._pipes[number % 2][1], b"\0")
        except OSError:  # it is full, so nobody sleeps; or user code has closed it
            return


class Keeper:
    """Forks the processes of one worker, whose function is called *name*."""

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns = turns
        self._name = name
        self._children: dict[int, int] = {}  # pid -> number
        self._statuses: dict[int, int] = {}  # of those whose turn has not come
        self._forked = 0

    def run(self) -> int:
        """Return in each process that is to execute a call: its number.

        The keeper itself does not return.  Raise OSError where none can be forked.
        """
        # Whatever is sent to the group is for those.
        every = {*_signal.valid_signals()} - {LIFELINE_SIGNAL}
        _signal.pthread_sigmask(_signal.SIG_SETMASK, every)
        gc.collect()
        gc.freeze()
        keeper = os.getpid()
        while True:
            while self._is_wanted():
                if self._fork():
                    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
                    end_with_parent(keeper)
                    return self._forked
            self._sleep()

    def _is_wanted(self) -> bool:
        """Return whether to fork one more."""
        behind = self._forked - self._turns.last()
        return behind < AHEAD and len(self._children) < MOST

    def _fork(self) -> bool:
        """Return whether this is the child."""
        try:
            pid = os.fork()
        except OSError:
            if not self._children:
                raise
            self._sleep()  # the end of one makes room
            return False
        self._forked += 1
        if pid:
            self._children[pid] = self._forked
        return not pid

    def _sleep(self) -> None:
        """Wait until a child has ended, or lets another one be forked."""
        if _signal.sigwait(_WAKES) == _signal.SIGTERM:  # `kill`, of the keeper alone
            for pid in self._children:
                os.kill(pid, _signal.SIGTERM)
        self._look_after()

    def _look_after(self) -> None:
        """Take note of those that have ended; end if it was the turn of one."""
        self._statuses.update(self._ended())
        last = self._turns.last()
        for number in [each for each in self._statuses if each <= last]:
            status = self._statuses.pop(number)
            if status:
                self._tell(status)
                self._turns.wake(number + 1)  # it may have died before it did
        if last + 1 in self._statuses:
            self._end_as(self._statuses[last + 1], last)

    def _ended(self) -> "Iterator[tuple[int, int]]":
        """Yield (number, status) of each child that has ended."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield self._children.pop(pid), status

    def _tell(self, status: int) -> None:
        """Say how one has ended that had answered: no call can be told."""
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
        os.write(2, f"forkrpc: {self._name} {how} behind its answer\n".encode())

    def _end_as(self, status: int, last: int) -> None:
        """End as a child did, when the others have left.  Does not return.

        last: as of Turns, before that.
        """
        self._turns.close()
        while True:
            for number, how in self._ended():
                if number <= last and how:
                    self._tell(how)
            if not self._children:
                break
            if not status:  # in order: they may take their time, as workers do
                _signal.sigwait(_WAKES)
            elif _signal.sigtimedwait(_WAKES, GRACE) is None:
                break
        for pid, number in self._children.items():
            if number > last:
                os.kill(pid, _signal.SIGKILL)
        if os.WIFSIGNALED(status):
            end_by_signal(os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))


class Turn:
    """One process's, to execute one call.

    number: its own.  keeper: the process id of who has forked it.
    """

    def __init__(self, turns: Turns, number: int, keeper: int) -> None:
        self._turns = turns
        self.number = number
        self.keeper = keeper

    def wait(self) -> bool:
        """Wait for it; return whether it has come."""
        return self._turns.wait(self.number)

    def hand_on(self, *, long: bool) -> None:
        """Let the next one have it.  long: it may take a while until this one ends."""
        self._turns.hand_on(self.number)
        if long:
            end_with_parent(None)
            os.kill(self.keeper, _signal.SIGCHLD)  # to fork another one now


def take_turn(page: "Page", name: str) -> Turn:
    """Become the keeper of a worker.  Return in each process that it forks."""
    turns, keeper = Turns(page), os.getpid()
    return Turn(turns, Keeper(turns, name).run(), keeper)
