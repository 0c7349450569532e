"""Signed callbacks: as the library of Standard Webhooks verifies them, through the proxy, with keys that change."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from proxy.signatures import secret_bytes, signed
from tests.backend import Answer, Backend, Request
from tests.clients import client
from tests.servers import Servers
from tests.test_reload import hang_up

pytestmark = pytest.mark.usefixtures("clean_logs")

OLD, NEW = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def is_signed(request: Request, key: str) -> bool:
    """Does the library find a good signature, of now?"""
    try:
        Webhook(key).verify(request.body, dict(request.headers), json_parse=False)
    except WebhookVerificationError:
        return False
    return True


def test_the_specification_s_example() -> None:
    """From the specification's and its libraries' tests."""
    key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = dict(signed([secret_bytes(key)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body))
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("kind", ["uvicorn", "daphne"])
async def test_forged_callbacks_every_kind_is_signed_by_both_keys(
    servers: Servers, backend: Backend, key: str, kind: str
) -> None:
    server = await servers.start(kind, {"EKBO_CALLBACK_SIGNING_KEYS": f"{OLD},{NEW}"})
    forged = [("Webhook-Id", "mine"), ("Webhook-Timestamp", "1"), ("Webhook-Signature", "v1,x")]
    async with client(server, key, *forged) as connection:
        await connection.send("text ä")
        await connection.send(b"\x7f")
        await backend.wait("/receive", key, 2)
    (closed,) = await backend.wait("/close", key)
    found = [
        *backend.seen("/connect", key),
        *backend.seen("/establish", key),
        *backend.seen("/receive", key),
        closed,
    ]
    assert len(found) == 5
    for one in found:
        assert (is_signed(one, OLD), is_signed(one, NEW)) == (True, True)
        assert not is_signed(one, "whsec_" + base64.b64encode(b"x" * 32).decode())
        assert one.one("webhook-id") == (one.one("x-kuiperbelt-event-id") or one.one("webhook-id"))
        assert abs(int(one.one("webhook-timestamp") or 0) - time.time()) < 10
        assert len((one.one("webhook-signature") or "").split(" ")) == 2
    assert len({one.one("webhook-id") for one in found}) == 5
    await server.stop()


async def test_close_callback_fails_and_is_told_again_with_its_id_and_a_new_time(
    servers: Servers, backend: Backend, key: str
) -> None:
    server = await servers.start("uvicorn", {"EKBO_CALLBACK_SIGNING_KEYS": OLD})
    backend.on("/close", key, lambda request: Answer(status=200 if len(backend.seen("/close", key)) > 1 else 500))
    async with client(server, key):
        pass
    first, second = await backend.wait("/close", key, 2)
    assert first.one("webhook-id") == second.one("webhook-id") == second.one("x-kuiperbelt-event-id")
    assert int(second.one("webhook-timestamp") or 0) > int(first.one("webhook-timestamp") or 0)
    assert is_signed(first, OLD)
    assert is_signed(second, OLD)
    await server.stop()


async def test_signing_keys_rotate(servers: Servers, backend: Backend, key: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{OLD}\n")
    server = await servers.start("uvicorn", {"EKBO_CALLBACK_SIGNING_KEYS_FILE": str(keys)})
    async with client(server, key) as connection:
        steps = [(OLD, True, False), (f"{OLD}\n{NEW}", True, True), (NEW, False, True), ("bad", False, True)]
        for number, (content, by_old, by_new) in enumerate(steps):
            keys.write_text(f"{content}\n")
            await hang_up(server, lambda log: "keys that sign callbacks: read anew" in log)
            await connection.send("x")
            last = (await backend.wait("/receive", key, number + 1))[-1]
            assert (is_signed(last, OLD), is_signed(last, NEW)) == (by_old, by_new)
    assert not {OLD, NEW} & set(server.output().split())
    await server.stop()
