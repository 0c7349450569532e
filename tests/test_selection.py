"""Which sessions a command means: keys, batches, parts. The filters run in test_listsessions."""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from django.core.management.base import CommandError, CommandParser

from proxy import selection
from proxy.models import Session
from tests.operators import Registry, manage


def test_keys() -> None:
    assert selection.check_keys(["b", "a", "b"]) == ["b", "a"]
    for key in ("", "a,b", "a b", "ü", "x" * 257):
        with pytest.raises(CommandError, match="expected 1-256 visible ASCII"):
            selection.check_keys(["good", key])


def test_batches() -> None:
    keys = [str(number) for number in range(2001)]
    assert [len(some) for some in selection.batches(keys)] == [1000, 1000, 1]
    assert not list(selection.batches([]))


def test_durations() -> None:
    assert selection.duration("1h30m") == 5400
    with pytest.raises(ArgumentTypeError, match=r"expected a duration like .*, found '1d'"):
        selection.duration("1d")


@pytest.mark.parametrize("option", ["--node", "--transport", "--address"])
def test_text_that_no_database_takes(option: str) -> None:
    parser = CommandParser()
    selection.add_filters(parser, "connected")
    with pytest.raises(CommandError, match=rf"argument {option}: expected printable text, found '\\udcff'"):
        parser.parse_args([option, "\udcff"])


async def test_parts_while_their_rows_go(tmp_path: Path) -> None:
    """Every row once, though each part's rows are deleted before the next is read."""
    registry = await Registry.embedded(tmp_path)
    await registry.sessions([str(number) for number in range(2500)], await registry.node())

    def delete_all() -> list[int]:
        rows = Session.objects.using(registry.alias)
        sizes = []
        for part in selection.in_parts(rows.all()):
            sizes.append(len(part))
            for some in selection.batches([row.key for row in part]):
                rows.filter(key__in=some).delete()
        return sizes

    assert await registry.run(delete_all) == [1000, 1000, 500]
    assert not await registry.rows()


async def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    registry = await Registry.embedded(tmp_path)
    node = await registry.node()
    done = await manage("listsessions", "--node", "web9", env=registry.env)
    assert done.status == 1
    assert "--node: expected the name or id of a node (listnodes --all), found 'web9'" in done.errors
    await registry.session("bob", node)
    done = await manage("listsessions", "--node", str(node.pk), env=registry.env)
    assert done.errors == "1 session\n"
