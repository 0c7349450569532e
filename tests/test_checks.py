"""The configuration's problems in `manage.py check`."""

from django.test import override_settings

from proxy import conf
from proxy.checks import check_certificate, check_configuration


def test_nothing_wrong() -> None:
    assert check_configuration(None) == []


def test_problems_are_errors_and_unread_variables_are_warnings() -> None:
    problem = conf.Problem("port", "a port from 0 to 65535", "'x'")
    with override_settings(KUIPERBELT_PROBLEMS=[problem], KUIPERBELT_UNKNOWN_VARIABLES=["EKBO_TYPO"]):
        error, warning = check_configuration(None)
    assert (error.id, error.msg) == ("proxy.E001", "port: expected a port from 0 to 65535, found 'x'")
    assert (warning.id, warning.msg) == ("proxy.W001", "EKBO_TYPO: no option reads this variable")


def test_certificates() -> None:
    with override_settings(KUIPERBELT=conf.Options()):
        assert check_certificate(None) == []
    for key, said in (
        ("", ": expected both or none, found only one"),
        ("/nowhere", "found: No such file or directory"),
    ):
        with override_settings(KUIPERBELT=conf.Options(tls_cert="/nowhere", tls_key=key)):
            (warning,) = check_certificate(None)
        assert warning.id == "proxy.W002"
        assert warning.msg.endswith(said)
