"""Lines from samples: common moments, rates, nodes that come and go."""

import pytest

from proxy.series import NAMES, STEP, Counted, Lines, as_json, moments, node_lines, total_lines


def counted(at: float, connections: int, connects: int = 0, messages: int = 0, errors: int = 0) -> Counted:
    return Counted(at, connections, connects, messages, errors)


def test_moments_are_common_to_everybody() -> None:
    assert moments(1003.5, 1040.0) == [1010, 1020, 1030, 1040]
    assert moments(1010, 1019.9) == []


def test_a_sample_holds_until_the_next_one_and_rates_are_between_two() -> None:
    lines = node_lines(
        [counted(103, 5, 10, 100), counted(113, 7, 15, 120, 1), counted(123, 6, 15, 120, 1)], [110, 120, 130]
    )
    assert lines == Lines([5, 7, 6], [None, 0.5, 0.0], [None, 2.0, 0.0], [None, 0.1, 0.0])


def test_a_sample_that_is_a_little_late_leaves_no_hole() -> None:
    lines = node_lines([counted(109.9, 1), counted(120.1, 2), counted(129.9, 3)], [110, 120, 130])
    assert lines.connections == [1, 1, 3]


def test_a_node_that_is_silent_has_gone() -> None:
    lines = node_lines([counted(100, 5)], [100, 110, 120, 130])
    assert lines.connections == [5, 5, 5, None]


def test_no_rate_over_a_gap_and_none_below_zero() -> None:
    lines = node_lines([counted(100, 1, 10), counted(200, 1, 500), counted(210, 1, 400)], [200, 210])
    assert lines.connects == [None, 0.0]


def test_totals_count_whom_they_know() -> None:
    one, other = node_lines([counted(100, 5), counted(110, 6)], [100, 110]), node_lines([counted(110, 3)], [100, 110])
    assert total_lines([one, other], [100, 110]).connections == [5, 9]
    assert total_lines([], [100, 110]) == Lines(*([None, None] for _ in NAMES))


@pytest.mark.parametrize("samples", [[], [counted(500, 1)]])
def test_nothing_known(samples: list[Counted]) -> None:
    assert node_lines(samples, [100]).connections == [None]
    assert node_lines(samples, []) == Lines([], [], [], [])


def test_json_is_short() -> None:
    lines = Lines([3], [1 / 3], [None], [2.0])
    assert as_json(lines) == {"connections": [3], "connects": [0.33], "messages": [None], "errors": [2.0]}
    assert STEP == 10
