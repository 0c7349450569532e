"""How sessions end: what the proxy itself decides is what the tables of docs/close-codes.md say."""

import re
from functools import partial
from pathlib import Path

from proxy import ends
from proxy.ends import End
from proxy.stats import Stats
from proxy.transports import transport_for
from tests.test_transports import DaphneProtocol, Protocol

PAGE = (Path(__file__).parent.parent / "docs/close-codes.md").read_text()
ENDS = {name: end for name, end in vars(ends).items() if isinstance(end, End)}


def test_what_the_backend_hears() -> None:
    table = PAGE[PAGE.index("| reason | code |") :].partition("\n\n")[0]
    codes = {
        reason: set(re.findall(r"\d{4}", cell)) for reason, cell in re.findall(r"^\| `(\w+)` \| ([^|]*)", table, re.M)
    }
    for name, end in ENDS.items():
        if end is not ends.NODE_LOST:  # a client gets 1012, a backend hears 1006
            assert str(end.code) in codes[end.reason], name
    assert {*codes, "backend"} == {reason for (reason,) in Stats.session_ends.places}


def test_what_the_client_sees() -> None:
    """A row for each Close that the proxy sends by itself, and its code on daphne."""
    rows = {tuple(row) for row in re.findall(r"^\| (\d{4}) \| `(\w+)` \| (\d{4}) \|", PAGE, re.MULTILINE)}
    daphne = transport_for(partial(Protocol().send, DaphneProtocol()))  # type: ignore[arg-type]
    sent = [end for end in ENDS.values() if end is not ends.LOST]
    assert rows == {(str(end.code), end.reason, str(daphne.close_message(end.code, "")["code"])) for end in sent}
