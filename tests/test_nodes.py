"""Who is dead, by their heartbeats and our own clock. Real processes that die: test_registry."""

from uuid import UUID, uuid4

from proxy.nodes import Watch

A, B = uuid4(), uuid4()


def looks(
    watch: Watch, beats: list[dict[UUID, int]], step: float = 5.0, start: float = 100.0
) -> list[list[tuple[UUID, int]]]:
    """Who is found dead at each look."""
    return [watch.look(heartbeats, start + step * number) for number, heartbeats in enumerate(beats)]


def test_who_is_silent_for_the_time_out_is_dead() -> None:
    beats: list[dict[UUID, int]] = [{A: number, B: 7} for number in range(8)]
    assert looks(Watch(30.0), beats) == [[]] * 6 + [[(B, 7)]] * 2


def test_who_beats_again_lives() -> None:
    assert looks(Watch(30.0), [{A: 1}] * 6 + [{A: 2}] * 6) == [[]] * 12


def test_who_did_not_look_for_long_knows_nothing() -> None:
    """After the database was away, or this process was stopped, everybody gets the whole time again."""
    watch = Watch(30.0)
    assert looks(watch, [{A: 1}] * 5) == [[]] * 5
    assert looks(watch, [{A: 1}] * 7, start=400.0) == [[]] * 6 + [[(A, 1)]]
