"""Forward the log records of a worker to the program with events.

The library does so by itself, unless `logs=False` is given; this shows how a handler of
your own can do it, or send something else that a worker has to tell.

The worker's root logger gets a handler that sends each record as an event; the program
hands it to its own logger of the same name, as if it had been made there.

There is one twist: while `init` runs the worker is not fully set up and cannot send
events, which `in_worker()` tells.  Until then records go to stderr, where this appears:

    before init: opening the shop

and on stdout, where the program's own records go:

    INFO shop.till: 3 apples sold
    WARNING shop.stock: only 2 apples left
    INFO shop: the till holds 6 coins
"""

import logging
import sys
from logging.handlers import QueueHandler

from forkrpc import Forker, event, in_worker


class EventHandler(QueueHandler):
    """Sends records to the program.  Lives in the worker."""

    def __init__(self):
        super().__init__(queue=None)

    def enqueue(self, record):
        if in_worker():
            event("log", record)
        else:
            print(f"before init: {record.getMessage()}", file=sys.stderr)


def open_shop():
    """Set up logging as early as possible: as `init` of the worker."""
    root = logging.getLogger()
    root.addHandler(EventHandler())
    root.setLevel(logging.INFO)
    root.info("opening the shop")


def sell(count):
    """Return the price of some apples.  Runs in the worker."""
    logging.getLogger("shop.till").info("%d apples sold", count)
    logging.getLogger("shop.stock").warning("only %d apples left", 5 - count)
    return 2 * count


def on_event(kind, *args):
    if kind == "log":
        (record,) = args
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def main():
    logging.basicConfig(
        level=logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stdout,
    )
    with Forker().run(sell, init=open_shop, on_event=on_event, logs=False) as rpc:
        price = rpc.call(3)
    logging.getLogger("shop").info("the till holds %d coins", price)


if __name__ == "__main__":
    main()
