"""How a child ends: its own handlers run, what it wrote is flushed, then `os._exit`.

Finalising the interpreter would cost four to eight times a bare exit.
"""

import atexit
import gc
import io
import os
import sys

from ..system import LIFELINE_SIGNAL, mortal

THREADS_LIMIT = 5.0  # seconds for which the end of a child waits for its threads

# Library handlers that hold nothing of the template; they are needed in a worker too.
_KEPT = ("concurrent.futures.",)


def drop_handlers() -> None:
    """Forget handlers that modules left in the template; they run there, once.

    Runs in a process just forked from a template.
    """
    atexit._clear()
    weakref = sys.modules.get("weakref")
    if weakref is not None:
        finalize = weakref.finalize
        finalize._registry.clear()
        finalize._registered_with_atexit = False
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._threading_atexits[:] = [
            handler
            for handler in threading._threading_atexits
            if getattr(handler, "func", handler).__module__.startswith(_KEPT)
        ]
    logging = sys.modules.get("logging")
    if logging is not None:
        atexit.register(logging.shutdown)


def leave(status: int, *, end_group: bool = False) -> None:
    """End this process in order.  Does not return.

    end_group: the program is gone; what this process has started shall go too.  The
    lifeline does not see to that once this process, its holder, has ended first.
    """
    mortal(False)
    try:
        _wait_for_threads()
        atexit._run_exitfuncs()
    except BaseException:  # a signal's handler; the process ends in any case
        sys.excepthook(*sys.exc_info())
    finally:
        flush_files()
        if end_group:
            os.killpg(0, LIFELINE_SIGNAL)  # this process itself has a handler for it
        os._exit(status)


def exit_status_of(error: SystemExit) -> int:
    """Return the status `sys.exit` asked for, printing its message, as Python does."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        print(code, file=sys.stderr)
    except Exception:  # stderr may be closed; the status tells enough
        pass
    return 1


def may_take_long() -> bool:
    """Return whether `leave` has threads to wait for, or handlers of the user's."""
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return True
    return atexit._ncallbacks() > ("logging" in sys.modules)


def _wait_for_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is None:
        return
    handlers = list(threading._threading_atexits)
    if not handlers and threading.active_count() == 1:
        return

    def wait() -> None:
        for handler in reversed(handlers):
            handler()
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.main_thread():
                thread.join()

    waiting = threading.Thread(target=wait, name="forkrpc leave", daemon=True)
    waiting.start()
    waiting.join(THREADS_LIMIT)


def flush_stdio() -> None:
    """Flush sys.stdout and sys.stderr, whatever they are now."""
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (AttributeError, OSError, ValueError):
            continue  # None, or closed, or its reader is gone: nobody is left to tell


def flush_files() -> None:
    """Flush every file that is open for writing, as the end of an interpreter does."""
    flush_stdio()
    kinds = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    files = [each for each in gc.get_objects() if isinstance(each, kinds)]
    # Text layers first: they hand what they hold to the binary ones.
    for file in sorted(files, key=lambda file: not isinstance(file, io.TextIOWrapper)):
        try:
            file.flush()
        except (OSError, ValueError):
            continue
