"""How sessions end: what the proxy itself decides is what the README's table of reasons says."""

import re
from pathlib import Path

from proxy import ends
from proxy.ends import End
from proxy.stats import Stats

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_ends_are_in_the_readme() -> None:
    table = README[README.index("| reason | code |") :].partition("\n\n")[0]
    codes = {
        reason: set(re.findall(r"\d{4}", cell)) for reason, cell in re.findall(r"^\| `(\w+)` \| ([^|]*)", table, re.M)
    }
    for name, end in vars(ends).items():
        if isinstance(end, End) and end is not ends.NODE_LOST:  # a client gets 1012, a backend hears 1006
            assert str(end.code) in codes[end.reason], name
    assert {*codes, "backend"} == {reason for (reason,) in Stats.session_ends.places}
