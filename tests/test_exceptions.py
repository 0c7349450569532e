"""The one table of errors: statuses and texts that clients of the API rely on (contract: POST send, close)."""

import pytest

from proxy import exceptions


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (exceptions.MethodNotAllowed(), 405, "required POST method"),
        (exceptions.SessionHeaderMissing(), 400, "session header is missing"),
        (exceptions.BadRequest("what"), 400, "what"),
        (exceptions.BodyTooLarge(5), 413, "request body is too large: at most 5 bytes are taken (EKBO_MAX_BODY_SIZE)"),
        (exceptions.Unauthorized("who"), 401, "who"),
        (exceptions.Forbidden("no"), 403, "no"),
    ],
)
def test_api_errors(error: exceptions.ApiError, status: int, text: str) -> None:
    assert (error.status, str(error)) == (status, text)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (exceptions.SessionNotFound(), "kuiperbelt: session is not found"),
        (exceptions.SessionClosed(), "kuiperbelt: session is closed"),
        (exceptions.SendTimeout(), "context deadline exceeded"),
    ],
)
def test_delivery_errors(error: exceptions.DeliveryError, text: str) -> None:
    assert str(error) == error.text == text
