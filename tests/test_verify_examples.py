"""The examples by which backends verify callbacks, each run by its own interpreter, on what the proxy signs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.signatures import secret_bytes, signed

VERIFY = Path(__file__).parent.parent / "examples/verify"
OLD, NEW, OTHER = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))
BODY = b'a "frame" \x00\xff\xc3\xa4'

# Each reads a JSON list of cases from stdin, [headers, body in base64, keys], and prints a list of 0 and 1.
RUNNERS = {
    "py": [
        sys.executable,
        "-c",
        "import base64, json, sys\nfrom verify import verified\n"
        "print([int(verified(h, base64.b64decode(b), *k)) for h, b, k in json.load(sys.stdin)])",
    ],
    "php": [
        "php",
        "-r",
        "require 'verify.php'; $found = []; foreach (json_decode(stream_get_contents(STDIN), true) as [$h, $b, $k])"
        "{ $found[] = (int) verified($h, base64_decode($b), ...$k); } echo json_encode($found);",
    ],
    "rb": [
        "ruby",
        "-rjson",
        "-e",
        "require './verify'\n"
        "puts JSON.parse($stdin.read).map { |h, b, k| verified(h, b.unpack1('m'), *k) ? 1 : 0 }.to_json",
    ],
    "pl": [
        "perl",
        "-MJSON::PP",
        "-e",
        "use MIME::Base64; require './verify.pl'; local $/; my @found;"
        "for (@{decode_json(<STDIN>)}) { push @found, verified($_->[0], decode_base64($_->[1]), @{$_->[2]}) ? 1 : 0 }"
        "print encode_json(\\@found);",
    ],
    "js": [
        "node",
        "-e",
        "const { verified } = require('./verify.js'); const cases = JSON.parse(require('fs').readFileSync(0));"
        "console.log(JSON.stringify(cases.map(([h, b, k]) => Number(verified(h, Buffer.from(b, 'base64'), ...k)))))",
    ],
}


def headers(age: int = 0, body: bytes = BODY, **changes: str) -> dict[str, str]:
    made = dict(signed([secret_bytes(OLD), secret_bytes(NEW)], "evt-1", int(time.time()) - age, body))
    return made | {f"webhook-{name}": value for name, value in changes.items()}


def cases() -> Mapping[str, tuple[dict[str, str], bytes, list[str], int]]:
    """By name: headers, body, keys of the backend, and what it should find."""
    good = headers()
    return {
        "the first of two signatures": (good, BODY, [OLD], 1),
        "the second": (good, BODY, [NEW], 1),
        "either of two keys": (good, BODY, [OTHER, NEW], 1),
        "no body": (headers(body=b""), b"", [NEW], 1),
        "another key": (good, BODY, [OTHER], 0),
        "another body": (good, BODY + b"x", [OLD, NEW], 0),
        "another id": (headers(id="evt-2"), BODY, [OLD], 0),
        "another time": (headers(timestamp=str(int(time.time()) - 9)), BODY, [OLD], 0),
        "too old": (headers(age=400), BODY, [OLD], 0),
        "from the future": (headers(age=-400), BODY, [OLD], 0),
        "no time": (headers(timestamp=""), BODY, [OLD], 0),
        "a time that is no number": (headers(timestamp="1e10"), BODY, [OLD], 0),
        "no signature": (headers(signature=""), BODY, [OLD], 0),
        "a cut signature": (headers(signature=good["webhook-signature"][:20]), BODY, [OLD], 0),
        "another version": (headers(signature=good["webhook-signature"].replace("v1,", "v2,")), BODY, [OLD], 0),
        "no headers": ({}, BODY, [OLD], 0),
    }


@pytest.mark.parametrize("language", RUNNERS)
def test_example(language: str) -> None:
    given = cases()
    told = [[sent, base64.b64encode(body).decode(), keys] for sent, body, keys, _ in given.values()]
    ran = subprocess.run(
        RUNNERS[language],
        cwd=VERIFY,
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    found = dict(zip(given, json.loads(ran.stdout), strict=True))
    assert found == {name: expected for name, (*_, expected) in given.items()}


def test_every_example_is_run() -> None:
    assert {path.suffix[1:] for path in VERIFY.glob("verify.*")} == set(RUNNERS)
