"""Put an Executor where a ProcessPoolExecutor was: one line is another.

Passwords are guessed, most of them wrong.  The worker of one of the calls is killed, as
the system does when memory is short: with the standard executor all calls would fail
from then on; here only that one does.  No `__main__` guard is needed.  It prints:

    guess 17: the worker was ended by SIGKILL
    the password is 'open sesame 42'
    100 guesses, 1 without an answer
"""

import hashlib
import os
import signal
from concurrent.futures import as_completed

# It was: from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from forkrpc import Executor, WorkerDied

SALT = b"salt"
WANTED = hashlib.scrypt(b"open sesame 42", salt=SALT, n=1024, r=8, p=1)


def is_right(number):
    """Return the password, if this is it.  Runs in a worker."""
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    guess = f"open sesame {number}"
    digest = hashlib.scrypt(guess.encode(), salt=SALT, n=1024, r=8, p=1)
    return guess if digest == WANTED else None


def silent(_error):
    """Each future is told of a crash; without this it would be logged as well."""


with Executor(on_error=silent) as executor:
    guesses = {executor.submit(is_right, number): number for number in range(100)}
    lost, found = {}, []
    for future in as_completed(guesses):
        try:
            found.append(future.result())
        except WorkerDied as error:
            lost[guesses[future]] = error.signal

for number, name in lost.items():
    print(f"guess {number}: the worker was ended by {name}")
print(f"the password is {max(filter(None, found))!r}")
print(f"{len(guesses)} guesses, {len(lost)} without an answer")
