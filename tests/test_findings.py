from proxy.findings import State, failed, ok, warning


def test_text() -> None:
    assert ok("limits", "open files", "65,536").text == "open files: 65,536"
    finding = warning("limits", "open files", "65,536 or more", "1,024", "ulimit -n 65536")
    assert finding.text == "open files: expected 65,536 or more, found 1,024"
    assert finding.state is State.WARNING
    assert failed("limits", "a", "b", "c", "d").state == "failed"
