"""docs/ says what the code says: options and commands are as they are declared, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import reference
from tests.servers import ROOT

PAGES = [ROOT / "README.md", ROOT / "examples/chat/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", reference.PAGES)
def test_what_is_made_is_up_to_date(page: str) -> None:
    """If not: `make docs`."""
    begin, end = reference.marks(page)
    found = (ROOT / f"docs/{page}.md").read_text().partition(begin)[2].partition(end)[0]
    assert found == "\n" + reference.PAGES[page]()


def test_the_readme_s_options_are_said_as_in_the_table() -> None:
    rows = re.findall(r"^\| (`EKBO_\w+` \| .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    table = reference.options()
    for row in rows:
        assert f" | {row}\n" in table


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]
