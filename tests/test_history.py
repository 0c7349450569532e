"""The history checker finds every kind of fault that it is for, and nothing in runs that are in order."""

from __future__ import annotations

import pytest

from proxy.exceptions import ClusterUnreachable, NoAnswer, SessionClosed, SessionNotFound
from tests.history import GRACE, OK, UNKNOWN, Connection, History, Payload, Sent

NOT_FOUND, CLOSED = SessionNotFound.text, SessionClosed.text
UNREACHABLE, NO_ANSWER = ClusterUnreachable.text, NoAnswer.text


def sent(number: int, start: float, end: float, outcome: str = OK, sender: str = "s") -> Sent:
    """A send to one key."""
    return Sent(Payload(sender, number, ("k",)), start, end, {"k": outcome})


def connection(
    *sends: Sent, key: str = "k", node: str = "A", span: tuple[float, float] = (0.0, 0.0), end: str = ""
) -> Connection:
    """A connection that got the frames of these sends, each as soon as it was sent."""
    began, ended = span
    frames = [(one.start, one.payload.frame) for one in sends]
    return Connection(key, node, began, began + 0.1, frames, ended if end else None, end)


def problem(history: History, *words: str) -> None:
    """There is one problem, and it says so."""
    (found,) = history.problems()
    assert all(word in found for word in words), found


def test_payloads_are_read_back_to_the_byte() -> None:
    for number in range(40):
        payload = Payload("s", number, ("a", "b"))
        assert isinstance(payload.frame, bytes) == bool(number % 2)
        assert Payload.read(payload.frame) == payload
        text = payload.frame if isinstance(payload.frame, str) else payload.frame.decode()
        for broken in (text + "x", text[:-1] + "y", text.replace("a,b", "a"), "", "x", "s x a y", "s 1 a", b"\xff"):
            assert Payload.read(broken) != payload


def test_binary_as_text_is_not_what_was_sent() -> None:
    payload = Payload("s", 1, ("a",))
    assert isinstance(payload.frame, bytes)
    assert Payload.read(payload.frame.decode()) is None


# Runs in order


def test_nothing_at_all() -> None:
    assert History().problems() == []
    assert History().summary() == {"sends": 0, "frames": 0}


def test_all_is_well() -> None:
    sends = [sent(number, 1 + number, 1.5 + number) for number in range(5)]
    history = History(sends, [connection(*sends)])
    assert history.problems() == []
    assert history.summary() == {"sends": 5, "OK": 5, "frames": 5, "connections: stayed": 1}


def test_sends_at_the_same_time_come_in_any_order() -> None:
    one, two = sent(1, 1.0, 2.0), sent(2, 1.5, 2.5, sender="t")
    assert History([one, two], [connection(two, one)]).problems() == []


@pytest.mark.parametrize("outcome", [NO_ANSWER, UNKNOWN])
def test_what_is_not_known_may_come_late_or_not_at_all(outcome: str) -> None:
    maybe, later = sent(1, 1.0, 2.0, outcome), sent(2, 3.0, 4.0)
    for got in ([maybe, later], [later, maybe], [later]):
        assert History([maybe, later], [connection(*got)]).problems() == []


@pytest.mark.parametrize("outcome", [NOT_FOUND, CLOSED, UNREACHABLE])
def test_what_was_not_sent_does_not_come(outcome: str) -> None:
    assert History([sent(1, 1.0, 2.0, outcome)], []).problems() == []


def test_a_payload_that_was_sent_twice_may_come_twice() -> None:
    first, again = sent(1, 1.0, 2.0, NO_ANSWER), sent(1, 3.0, 4.0)
    assert History([first, again], [connection(first, again)]).problems() == []


def test_to_many_keys_each_with_its_own_outcome() -> None:
    payload = Payload("s", 1, ("a", "b", "c"))
    send = Sent(payload, 1.0, 2.0, {"a": OK, "b": NOT_FOUND, "c": OK})
    assert History([send], [connection(send, key="a"), connection(send, key="c")]).problems() == []
    problem(History([send], [connection(send, key="a")]), "c", "never came")
    problem(History([send], [connection(send, key=key, span=(0.95, 0)) for key in "abc"]), "b@A", NOT_FOUND)


@pytest.mark.parametrize("end", ["left", "lost"])
@pytest.mark.parametrize("ended", [2.1, 1.5, 0.9], ids=["just after", "meanwhile", "just before"])
def test_lost_with_its_connection(end: str, ended: float) -> None:
    """Written to a socket that was reset, or whose client read no further."""
    assert History([sent(1, 1.0, 2.0)], [connection(span=(0, ended), end=end)]).problems() == []


def test_lost_with_a_connection_whose_handshake_the_client_gave_up() -> None:
    """Sessions can be sent to before their client has the 101."""
    given_up = Connection("k", "A", 0.5, None, [], 1.5, "left")
    assert History([sent(1, 1.0, 1.2)], [given_up]).problems() == []


def test_lost_at_a_process_that_stood_still_when_the_client_left() -> None:
    """It goes on after 3 s, and writes to a socket of which it does not know yet that it was reset."""
    gone = connection(span=(0, 1.0), end="left")
    history = History([sent(1, 4.0, 4.2)], [gone], pauses=[("A", 0.9, 4.1)])
    assert history.problems() == []
    history.pauses = [("B", 0.9, 4.1)]
    problem(history, "never came")


def test_join_delivers_to_all() -> None:
    one = sent(1, 1.0, 2.0)
    assert History([one], [connection(one), connection(one, node="B")], join=True).problems() == []


def test_joined_and_apart() -> None:
    """OK may have been about another connection, for which this one's frame was late."""
    one, two = sent(1, 1.0, 1.1), sent(2, 2.0, 2.1)
    history = History([one, two], [connection(two, one)], gaps=[(0.5, 1.5)], join=True)
    assert history.problems() == []
    history.gaps = [(2.5, 3.5)]
    problem(history, "s#2 before s#1")
    history.gaps, history.join = [(0.5, 1.5)], False
    problem(history, "s#2 before s#1")


def test_replaced_and_its_successor() -> None:
    sends = [sent(1, 1.0, 1.1), sent(2, 3.0, 3.1)]
    old, new = connection(sends[0], span=(0, 2.2), end="4001"), connection(sends[1], node="B", span=(2.0, 0))
    assert History(sends, [old, new]).problems() == []


@pytest.mark.parametrize("outcome", [NOT_FOUND, CLOSED])
def test_refused_about_the_end_or_the_beginning(outcome: str) -> None:
    refused = sent(1, 1.0, 1.2, outcome)
    for span, end in (((0.0, 1.3), "1000"), ((0.0, 1.1), "left"), ((0.95, 0.0), ""), ((2.0, 0.0), "")):
        assert History([refused], [connection(span=span, end=end)]).problems() == []


# Faults


def test_to_a_wrong_session() -> None:
    one = sent(1, 1.0, 2.0)
    problem(History([one], [connection(one), connection(one, key="other")]), "other@A", "which was for ('k',)")


def test_never_sent() -> None:
    problem(History([], [connection(sent(1, 1.0, 2.0))]), "nobody sent")


def test_altered() -> None:
    one = sent(4, 1.0, 2.0)
    altered = connection(one)
    altered.frames.append((1.5, str(one.payload.frame) + "x"))
    problem(History([one], [altered]), "nobody sent")


def test_twice_on_one_connection() -> None:
    one = sent(1, 1.0, 2.0)
    problem(History([one], [connection(one, one)]), "s#1 came 2 times")
    problem(History([one], [connection(one, one)], join=True), "s#1 came 2 times")


def test_on_two_connections_of_a_key() -> None:
    one = sent(1, 1.0, 2.0)
    problem(History([one], [connection(one), connection(one, node="B")]), "s#1 came 2 times", "k@A", "k@B")


def test_three_times_though_sent_twice() -> None:
    first, again = sent(1, 1.0, 2.0), sent(1, 3.0, 4.0)
    problem(History([first, again], [connection(first, again, again)]), "s#1 came 3 times")


def test_out_of_order() -> None:
    one, two, three = sent(1, 1.0, 2.0), sent(2, 3.0, 4.0), sent(3, 5.0, 6.0)
    for join in (False, True):
        problem(History([one, two, three], [connection(two, one, three)], join=join), "s#2 before s#1", "1.000 s")
    assert len(History([one, two, three], [connection(three, two, one)]).problems()) == 2


def test_out_of_order_among_senders() -> None:
    one, two = sent(1, 1.0, 2.0), sent(1, 2.5, 4.0, sender="t")
    problem(History([one, two], [connection(two, one)]), "t#1 before s#1")


def test_out_of_order_past_an_unknown_one() -> None:
    one, maybe, two = sent(1, 1.0, 2.0), sent(2, 2.1, 2.9, NO_ANSWER), sent(3, 3.0, 4.0)
    problem(History([one, maybe, two], [connection(two, maybe, one)]), "s#3 before s#1")


def test_back_to_an_older_connection() -> None:
    one, two = sent(1, 3.0, 3.1), sent(2, 4.0, 4.1)
    old, new = connection(two, span=(0.0, 5.0), end="4001"), connection(one, node="B", span=(2.0, 0.0))
    history = History([one, two], [old, new])
    problem(history, "k@A/0.000 got s#2 after k@B/2.000")
    history.gaps = [(3.5, 4.5)]
    assert history.problems() == []


def test_lost_though_the_connection_stayed() -> None:
    sends = [sent(1, 1.0, 1.1), sent(2, 2.0, 2.1), sent(3, 3.0, 3.1)]
    problem(History(sends, [connection(sends[0], sends[2])]), "s#2 to k was answered OK at 2.100 and never came")


def test_lost_though_nobody_was_there() -> None:
    problem(History([sent(1, 1.0, 2.0)], []), "never came: it never connected")


@pytest.mark.parametrize("end", ["1000", "4001", "1012", "refused"])
def test_lost_though_the_connection_ended_in_order(end: str) -> None:
    problem(History([sent(1, 1.0, 1.1)], [connection(span=(0, 1.2), end=end)]), "never came")


@pytest.mark.parametrize("end", ["left", "lost"])
def test_lost_long_before_or_after_the_end(end: str) -> None:
    one = sent(1, 10.0, 10.1)
    problem(History([one], [connection(span=(0, 10.1 + GRACE), end=end)]), "never came")
    problem(History([one], [connection(span=(0, 10.0 - GRACE), end=end)]), "never came")
    problem(History([one], [connection(span=(10.2, 10.3), end=end)]), "never came")


@pytest.mark.parametrize("outcome", [NOT_FOUND, CLOSED, UNREACHABLE])
def test_denied_but_there(outcome: str) -> None:
    denied = sent(1, 1.0, 2.0, outcome)
    problem(History([denied], [connection(denied, span=(0.95, 0))]), "k@A", "got s#1", outcome)


def test_denied_twice_but_there() -> None:
    first, again = sent(1, 1.0, 2.0, UNREACHABLE), sent(1, 3.0, 4.0, UNREACHABLE)
    problem(History([first, again], [connection(again)]), UNREACHABLE)
    assert History([first, sent(1, 3.0, 4.0)], [connection(again)]).problems() == []


@pytest.mark.parametrize("outcome", [NOT_FOUND, CLOSED])
def test_refused_though_it_was_there(outcome: str) -> None:
    refused = sent(1, 1.0, 1.2, outcome)
    problem(History([refused], [connection()]), outcome, "k@A/0.000 was there")
    problem(History([refused], [connection(span=(0.0, 1.3 + GRACE), end="1000")]), outcome, "was there")


def test_an_answer_that_nobody_knows() -> None:
    problem(History([sent(1, 1.0, 1.2, "500")], []), "answered '500'")
