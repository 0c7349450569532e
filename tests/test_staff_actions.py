"""What staff fill in, and how it is written down; what it does is in test_admin.py."""

from typing import Any

import pytest

from proxy import conf
from proxy.protocol import Frame
from proxy.remote import Order
from proxy.staff_actions import ActForm, CloseForm, SendForm, describe


@pytest.mark.parametrize(
    ("form", "filled", "order", "description"),
    [
        (SendForm, {"text": " ü\r\n"}, Order(Frame(" ü\n", 4)), "Send a text message of 4 bytes"),
        (CloseForm, {"code": "1000"}, Order(None, 1000), "Close with code 1000"),
        (
            CloseForm,
            {"code": "4999", "reason": "go", "last_message": "bye"},
            Order(Frame("bye", 3), 4999, "go"),
            "Close with code 4999, reason 'go', last message of 3 bytes",
        ),
    ],
)
def test_orders(form: type[ActForm], filled: dict[str, str], order: Order, description: str) -> None:
    made = form(filled)
    assert made.is_valid(), made.errors
    assert made.order() == order
    assert describe(order) == description


@pytest.mark.parametrize(
    ("form", "filled", "field"),
    [
        (SendForm, {"text": ""}, "text"),
        (SendForm, {"text": "\0"}, "text"),
        (SendForm, {"text": "ü" * (conf.options().max_body_size // 2 + 1)}, "text"),
        (CloseForm, {"code": ""}, "code"),
        (CloseForm, {"code": "1006"}, "code"),
        (CloseForm, {"code": "2999"}, "code"),
        (CloseForm, {"code": "5000"}, "code"),
        (CloseForm, {"code": "1000", "reason": "ü" * 62}, "reason"),
        (CloseForm, {"code": "1000", "reason": "\0"}, "reason"),
    ],
)
def test_refused(form: type[ActForm], filled: dict[str, Any], field: str) -> None:
    assert list(form(filled).errors) == [field]
