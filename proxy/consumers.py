"""One client's connection, from the handshake to the close callback. Routing hands every /connect to a consumer.

Order of events, and what each answer of the backend leads to: contract, "GET connect".
"""

import asyncio
import contextlib
from time import monotonic
from typing import Any

from channels.consumer import AsyncConsumer

from proxy import callbacks, delivery, ends, handshake, idle, lifespan, logs, registry, reports, tapped, tracing
from proxy.clock import new_connection
from proxy.conf import options
from proxy.endpoint import endpoint_for
from proxy.ends import End
from proxy.events import SEND, WATCH, Event
from proxy.exceptions import CallbackError, DeliveryError, SessionClosed
from proxy.inbound import LAST_FRAMES_LIMIT, Inbound
from proxy.limits import Pace, Place
from proxy.outbound import Outbound
from proxy.outcomes import Outcome
from proxy.ownership import Membership
from proxy.protocol import Frame, Message
from proxy.stats import Stats, stats
from proxy.taps import Tap
from proxy.transports import read_frame, transport_for

_MESSAGES = Stats.total_messages.place
_RECEIVED = Stats.received_messages.place


class SessionConsumer(AsyncConsumer):
    """A session: reads its client's frames in one loop, and gets pushes as direct calls from the channel layer.

    Channels' own dispatch makes three tasks and a thread hop per connection and event, so `__call__` is its own.
    """

    session: callbacks.Session
    outbound: Outbound
    membership: Membership
    entry: registry.Entry
    tap: Tap | None = None  # while somebody watches

    def __init__(self) -> None:
        self.ended: End | None = None
        self.inbound: Inbound | None = None
        self.last_active = monotonic()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope, self.options = scope, options()
        self.connection = new_connection()
        self.transport = transport_for(send)
        self.handshake = handshake.Handshake(scope, self.connection, self.transport)
        with Place() as place, self.handshake, tracing.connection(self.connection, scope["headers"]):
            try:
                await receive()  # websocket.connect
                tapped.by_ticket(self)
                accepted = await handshake.authenticate(scope, self.connection, place, self.options)
                self.log = logs.ConnectionLog(scope, self.connection)
                self.transport.on_session()
                self.outbound = Outbound(self.transport, self.options, self.on_slow)
                self.session = callbacks.Session(accepted.key, self.connection, endpoint_for(scope, self.options))
                self.membership = delivery.membership(accepted.key, self.connection, self.on_event, self.on_replaced)
                self.entry = registry.enter(scope, self.session, accepted.subprotocol, self.on_lost)
            except Exception as error:
                await self.handshake.refuse(error, self.tap)
                return
            stats.connections += 1
            try:
                tapped.begin(self)
                await self.entry.opened()
                # A client that has gone must not push a newer connection of its key out.
                if self.transport.is_gone():
                    self.handshake.came_to("client_gone")
                    self.leave(ends.HANDSHAKE)
                else:
                    # From here on /send finds this session, and an older one of the same key is gone.
                    await self.membership.join()
                    if await self.open(accepted):
                        await self.read(receive)
            except asyncio.CancelledError:
                # daphne does that at SIGTERM, and to what goes on for long after a disconnect; others at a forced stop.
                self.end(ends.SHUTDOWN if self.transport.is_shutting_down() else ends.LOST)
            except SessionClosed:
                self.leave(ends.LOST)
            except Exception as error:
                if self.handshake.is_decided:
                    logs.crashed(self.connection)
                    self.end(ends.ERROR)
                else:
                    self.leave(ends.HANDSHAKE if isinstance(error, DeliveryError) else ends.ERROR)
                    await self.handshake.refuse(error, self.tap)
            finally:
                self.leave(ends.LOST)
                self.outbound.drop(None)
                stats.connections -= 1
                place.free()  # what the backend must still hear isn't the client's
                await asyncio.shield(lifespan.clean_up(self.clean_up()))

    async def open(self, accepted: callbacks.Accepted) -> bool:
        """101, establish callback, first frame; False when the client has gone before the 101."""
        try:
            await self.transport.send({"type": "websocket.accept", "subprotocol": accepted.subprotocol})
        except OSError:
            self.handshake.came_to("client_gone")
            self.leave(ends.HANDSHAKE)
            return False
        self.handshake.came_to("open")
        self.outbound.open()
        if self.ended:  # replaced, or closed, before it began
            return True
        idle.sweeper().add(self)
        try:
            await callbacks.client().establish(self.session)
        except CallbackError as error:
            stats.connect_errors += 1
            logs.callback_failed("establish", self.connection, error)
            self.end(ends.HANDSHAKE)
            return True  # the client's answer to our Close is still to be read
        if accepted.first_frame and not self.ended:
            with contextlib.suppress(SessionClosed):  # how it ended, `read` will hear
                self.push(accepted.first_frame)
        self.log.opened()
        return True

    # Client -> backend

    async def read(self, receive: Any) -> None:
        """The client's frames, until the server says that it has gone."""
        wanted = callbacks.client().wants("receive")
        pace = Pace(self.options.message_rate) if self.options.message_rate else None
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.leave(self.transport.disconnect(message))
                return
            self.last_active = monotonic()
            if pace and not pace.allows(self.last_active):
                if not self.ended:
                    stats.add(Stats.received_drops["rate"])
                self.end(ends.TOO_FAST)
            if self.ended or message["type"] == "websocket.ping":  # our own server shows a client's pings
                continue
            stats.slot[_RECEIVED] += 1
            frame = read_frame(message)
            if self.tap:
                self.tap.frame(reports.RECEIVED, frame.payload, frame.size)
            if frame.size > self.options.max_message_size:
                stats.add(Stats.received_drops["size"])
                self.end(ends.TOO_BIG)
            elif wanted:
                self.inbound = self.inbound or Inbound(self.deliver, self.connection, lambda: self.end(ends.ERROR))
                self.inbound.put(frame)
                await self.inbound.room(self.transport)

    async def deliver(self, frame: Frame) -> None:
        """One frame to the receive callback, and its answer back if receive_reply is on."""
        reply = await callbacks.client().receive(self.session, frame)
        if reply and not self.ended:
            try:
                if room := self.push(reply):
                    await room
            except DeliveryError:
                stats.message_errors += 1

    # Backend -> client: events of the channel layer, called in the sender's turn

    def on_event(self, event: Event) -> Outcome:
        if event["type"] == SEND:
            stats.slot[_MESSAGES] += 1  # as stats.total_messages, which costs a tenth of the frame
            self.last_active = monotonic()
            return self.outbound.push(event["message"], event["size"], event["timeout"])
        if event["type"] == WATCH:
            tapped.watch(self, event)
        else:
            self.on_close(event)
        return None

    def on_close(self, event: Event) -> None:
        if event["last"]:
            stats.total_messages += 1
        reason = ends.OPERATOR if event.get("tell") else ends.BACKEND
        if not self.end(End(event["code"], reason, event["reason"]), event["last"]):
            self.ended = ends.LOST
            raise SessionClosed

    def push(self, frame: Frame) -> "asyncio.Future[None] | None":
        """Send a frame that the backend gave as an answer."""
        stats.total_messages += 1
        self.last_active = monotonic()
        return self.outbound.push(frame.message(), frame.size)

    # The end

    def on_slow(self) -> None:
        """The client doesn't read: drop what waits for it, tell it why if it reads on, and don't wait for that."""
        if self.ended:  # it doesn't even read the Close that is on its way
            self.outbound.drop(None)
            self.transport.abort()
            return
        self.leave(ends.SLOW)
        self.outbound.drop(self.transport.close_message(ends.SLOW.code, ends.SLOW.reason))

    def on_replaced(self) -> None:
        self.end(ends.REPLACED)

    def on_idle(self) -> None:
        self.end(ends.IDLE)

    def on_lost(self) -> None:
        self.end(ends.NODE_LOST)

    def end(self, end: End, last: Message | None = None) -> bool:
        """Close it from our side: a last frame, if any, and Close. The first end counts; False: the socket had gone."""
        if self.ended:
            return True
        self.leave(end)
        try:
            text = end.reason if end.text is None else end.text
            self.outbound.finish(last, self.transport.close_message(end.code, text))
        except SessionClosed:
            return False
        return True

    def leave(self, end: End) -> None:
        """Nobody finds this session any more."""
        if self.ended:
            return
        self.ended = end
        self.membership.leave()
        idle.sweeper().discard(self)

    async def clean_up(self) -> None:
        """What the backend must still hear, in order: the client's last frames, then its end."""
        end = self.ended or ends.LOST
        stats.add(Stats.session_ends[end.reason])
        self.log.closed(end)
        if self.tap:
            self.tap.closed(end.code, end.reason, self.log.seconds())
        if self.inbound:
            await self.inbound.end(LAST_FRAMES_LIMIT if end is ends.SHUTDOWN else None)
        await self.entry.closed(end.code, end.reason, tell=not end.by_backend)
        del self.entry, self.membership, self.inbound  # which hold this; the collector comes rarely (garbage.py)
