"""Find the longest Collatz chain with all processors, and show how far it is.

A chain goes on with half of an even number, and with three times an odd one and one
more, down to 1.  Ranges of numbers are calls of a pool; its workers send an event for
each 1,000 numbers, and the program adds them up.  It prints:

    25 % of 60000
    50 % of 60000
    75 % of 60000
    100 % of 60000
    52527 has the longest chain, 340 numbers
"""

import os

from forkrpc import Forker, event

MOST = 60_000
AT_ONCE = 5_000  # numbers in a call
EVERY = 1_000  # numbers between two events


def longest(numbers):
    """Return (length, number) of the longest chain.  Runs in a worker."""
    best = (0, 0)
    for number in numbers:
        best = max(best, (chain(number), number))
        if number % EVERY == 0:
            event(EVERY)
    return best


def chain(number):
    length = 1
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        length += 1
    return length


class Progress:
    """Prints each quarter.  Events come one after another, from whichever worker."""

    def __init__(self):
        self._done = 0

    def add(self, numbers):
        before, self._done = self._done, self._done + numbers
        if 4 * self._done // MOST > 4 * before // MOST:
            print(f"{100 * self._done // MOST} % of {MOST}")


def main():
    workers = len(os.sched_getaffinity(0))
    add = Progress().add
    with Forker().pool(longest, max=workers, start=0, on_event=add) as pool:
        starts = range(1, MOST + 1, AT_ONCE)
        calls = [pool.submit(range(start, start + AT_ONCE)) for start in starts]
    length, number = max(call.result() for call in calls)
    print(f"{number} has the longest chain, {length} numbers")


if __name__ == "__main__":
    main()
