"""The bytes of the lane's answers. What it answers when is in test_push_lane."""

from proxy import protocol
from proxy.options import Options
from proxy.push_answers import Lane

DEFAULTS = [(b"date", b"now")]


def test_an_answer_is_whole() -> None:
    lane = Lane(Options(), served=True)
    answer = lane.response(400, b"no", DEFAULTS, (b"connection", b"close"))
    assert answer == (
        b"HTTP/1.1 400 Bad Request\r\ndate: now\r\ncontent-type: application/json; charset=utf-8\r\n"
        b"content-length: 2\r\nconnection: close\r\n\r\nno"
    )


def test_ok_is_made_once_for_each_date() -> None:
    lane = Lane(Options(), served=True)
    one = lane.response(200, protocol.OK_BODY, DEFAULTS)
    assert one.endswith(b"content-length: 15\r\n\r\n" + protocol.OK_BODY)
    assert lane.response(200, protocol.OK_BODY, DEFAULTS) is one
    later = lane.response(200, protocol.OK_BODY, [(b"date", b"later")])
    assert later == one.replace(b"now", b"later")
    closing = lane.response(200, protocol.OK_BODY, DEFAULTS, (b"connection", b"close"))
    assert b"connection: close" in closing
    assert b"date: now" in closing


def test_the_lane_is_off_where_the_api_is_not() -> None:
    assert set(Lane(Options(), served=True).pushes) == {b"/send", b"/close"}
    assert not Lane(Options(), served=False).pushes
    assert not Lane(Options(push_lane=False), served=True).pushes
