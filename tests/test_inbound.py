"""A client's frames on their way to the backend: order, bounds, failures (contract: Callbacks, receive)."""

import asyncio

from proxy.exceptions import CallbackError
from proxy.inbound import MAX_FRAMES, Inbound
from proxy.protocol import Frame
from proxy.stats import stats
from proxy.transports import Transport


class Backend:
    """Takes frames while it is open; fails when told so."""

    def __init__(self) -> None:
        self.taken: list[str | bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failing = False

    async def deliver(self, frame: Frame) -> None:
        await self.open.wait()
        if self.failing:
            raise CallbackError("no")
        self.taken.append(frame.payload)


async def put(inbound: Inbound, frame: Frame) -> None:
    """As the consumer does."""
    inbound.put(frame)
    await inbound.room(Transport(None))


def frame(number: int, size: int = 1) -> Frame:
    return Frame(str(number), size)


async def test_frames_go_out_in_order_one_at_a_time() -> None:
    backend = Backend()
    inbound = Inbound(backend.deliver, "c", lambda: None)
    for number in range(5):
        await put(inbound, frame(number))
    await inbound.end(None)
    assert backend.taken == ["0", "1", "2", "3", "4"]


async def test_reading_stops_at_sixteen_frames_and_goes_on_after() -> None:
    backend = Backend()
    backend.open.clear()
    inbound = Inbound(backend.deliver, "c", lambda: None)
    for number in range(MAX_FRAMES - 1):
        await put(inbound, frame(number))
    blocked = asyncio.create_task(put(inbound, frame(15)))
    await asyncio.sleep(0.01)
    assert not blocked.done()
    backend.open.set()
    await asyncio.wait_for(blocked, 1)
    await inbound.end(None)
    assert len(backend.taken) == MAX_FRAMES


async def test_reading_stops_at_one_mebibyte() -> None:
    backend = Backend()
    backend.open.clear()
    inbound = Inbound(backend.deliver, "c", lambda: None)
    await put(inbound, frame(0, 1 << 19))
    blocked = asyncio.create_task(put(inbound, frame(1, 1 << 19)))
    await asyncio.sleep(0.01)
    assert not blocked.done()
    backend.open.set()
    await asyncio.wait_for(blocked, 1)


async def test_a_failure_is_counted_and_the_next_frame_goes_out() -> None:
    backend = Backend()
    backend.failing = True
    errors = stats.receive_errors
    inbound = Inbound(backend.deliver, "c", lambda: None)
    await put(inbound, frame(0))
    await asyncio.sleep(0.01)
    backend.failing = False
    await put(inbound, frame(1))
    await inbound.end(None)
    assert backend.taken == ["1"]
    assert stats.receive_errors == errors + 1


async def test_a_backend_that_fails_after_the_client_has_gone_gets_no_more() -> None:
    backend = Backend()
    backend.open.clear()
    inbound = Inbound(backend.deliver, "c", lambda: None)
    for number in range(3):
        await put(inbound, frame(number))
    errors = stats.receive_errors
    backend.failing = True
    asyncio.get_running_loop().call_later(0.01, backend.open.set)
    await asyncio.wait_for(inbound.end(None), 1)
    assert stats.receive_errors == errors + 1


async def test_the_end_of_the_process_does_not_wait_for_ever() -> None:
    backend = Backend()
    backend.open.clear()
    inbound = Inbound(backend.deliver, "c", lambda: None)
    await put(inbound, frame(0))
    await asyncio.wait_for(inbound.end(0.05), 1)
    assert backend.taken == []
