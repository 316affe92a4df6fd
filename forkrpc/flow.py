"""What a worker is told of its streams, and what its page tells of them.

Any thread may tell.  What an interrupt leaves unsaid is said by the next tick, and
saying it twice does no harm.
"""

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .items import Items
    from .life import Life
    from .program import Program
    from .session import Session


class Flow:
    """The streams of one connection.

    inert: this is a forked copy of the program, where nothing is told.
    """

    def __init__(
        self, session: "Session", channel: "Channel", life: "Life", program: "Program"
    ) -> None:
        self.inert = False
        self._session = session
        self._channel = channel
        self._life = life
        self._program = program
        self._seen = (0, 0, 0)  # what the page told at the last look

    def credit(self, items: "Items", taken: int) -> None:
        """Tell how many items of a stream were taken."""
        if items.call_id and not self.inert:
            self._channel.post(wire.credit(items.call_id, taken))

    def stop_closed(self) -> None:
        """Have the generators of closed streams closed."""
        for call_id, items in list(self._session.streams.under_way.items()):
            if items.closed and not items.stopped and not self.inert:
                self._channel.post(wire.encode(wire.STOP, first=call_id))
                items.stopped = True

    def stop_later(self) -> None:
        """Do `stop_closed` soon, in the reactor's thread.  Takes no lock."""
        if not self._life.over:
            self._program.reactor.soon(self.stop_closed)

    def wait(self, items: "Items") -> None:
        """Wait until *items* rings.  Raise RuntimeError in the reactor's thread."""
        self.check_may_wait("a stream")
        self._channel.wait(items)

    def check_may_wait(self, verb: str) -> None:
        """Raise RuntimeError where nobody would read what is waited for."""
        self._program.check_may_wait(verb)
        self._channel.check_nested()

    def close_those_of(self, *takers: object) -> None:
        """Close the streams whose `Items.taker` is among *takers*, or has ended.

        They wait for the worker's end, so nobody would take the rest.
        """
        for items in list(self._session.streams.under_way.values()):
            items.close_if_left_by(takers, "proxy")
        self.stop_closed()

    def look_at_page(self) -> None:
        """Hand over items that a stuck worker holds back.  The caller leads.

        Stuck: it has made no other since the last look.
        """
        made = self._life.made()
        if made == self._seen and made[0]:
            self.recover()
        self._seen = made

    def recover(self) -> None:
        """Hand over the items that stand in the page."""
        items = self._session.streams.under_way.get(self._life.made()[0])
        if items is not None and not items.closed:
            kept = self._life.made_items(items.received)
            if kept:
                self._session.recover_items(items, kept)
