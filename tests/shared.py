"""A template for all tests of a module: what its workers import is imported once."""

import contextlib

from forkrpc import Forker
from helpers import wait_until

LIMIT = 10.0  # seconds; much more than it takes


@contextlib.contextmanager
def shared_template(*modules):
    """Yield a template that knows *modules*, and has its twin with asyncio.

    Nothing appears while a test runs, and nothing is left when the module is done.
    """
    with Forker().require(*modules) as template:
        with template.run("asyncio.sleep", backend="async") as worker:
            worker.call(0)  # the twin stays as long as the template does
        worker.join(LIMIT)
        links = [template._link, template._link.with_asyncio()]
        yield template
    wait_until(lambda: all(link.ended for link in links), LIMIT)
