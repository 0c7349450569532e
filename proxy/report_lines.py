"""A report as a line for people, at a terminal. Pure rules, used by `manage.py tail`."""

from datetime import datetime

from proxy import reports
from proxy.printable import shown
from proxy.reports import Report

_ARROWS = {reports.SENT: "->", reports.RECEIVED: "<-"}


def in_line(report: Report) -> str:
    """Local time, the connection's last digits, what happened. Nothing in it moves a cursor."""
    moment = _time(str(report.get("at", "")))
    return shown(f"{moment}  {str(report.get('connection', ''))[-4:]:4}  {_words(report)}").rstrip()


def _time(moment: str) -> str:
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):
        return "--:--:--.---"


def _words(report: Report) -> str:
    get = report.get
    what = get("what")
    match what:
        case reports.SENT | reports.RECEIVED:
            return f"{_ARROWS[what]} {get('type')} {_bytes(get('size'))}{_content(report)}"
        case reports.CALLBACK:
            result = f"failed: {get('error')}" if get("error") else str(get("status"))
            return f"{get('kind')} callback {result}, {get('ms')} ms{_answer(report)}{_content(report)}"
        case reports.SESSION:
            return f"session {get('key')} at {get('node')}, from {get('remote')}, {get('path')}, since {get('since')}"
        case reports.CLOSED:
            return f"closed, {get('code')} {get('reason')}, after {_seconds(get('ms'))}"
        case reports.REFUSED:
            return f"refused with {get('status')}: {get('reason')}"
        case reports.ABSENT:
            return "not connected"
        case reports.MISSED:
            return f"{get('count') or 'some'} reports missed"
        case reports.REGAINED:
            return "watching again"
        case _:
            return f"{what}: {get('reason', '')}"


def _seconds(ms: object) -> str:
    return f"{ms / 1000:.1f} s" if isinstance(ms, int | float) else "? s"


def _bytes(size: object) -> str:
    return "1 byte" if size == 1 else f"{size} bytes"


def _answer(report: Report) -> str:
    return f", {_bytes(report['answered'])}" if report.get("answered") else ""


def _content(report: Report) -> str:
    if "content" not in report:
        return ""
    return f"  {report['content']}" + ("…" if report.get("cut") else "")
