"""The declaration of the options: each has a key, a variable and a meaning of its own."""

from dataclasses import fields

from proxy.options import Options


def test_keys_and_variables_are_unique_and_meanings_fit_on_a_line() -> None:
    for name in ("key", "variable", "meaning"):
        found = [spec.metadata[name] for spec in fields(Options)]
        assert len(set(found)) == len(found)
    assert all(spec.metadata["variable"].startswith("EKBO_") for spec in fields(Options))
    assert all(len(spec.metadata["meaning"]) < 80 for spec in fields(Options))


def test_the_session_header_as_asgi_names_it() -> None:
    assert Options().session_header_name == b"x-kuiperbelt-session"


def test_a_cluster_is_what_has_redis() -> None:
    assert not Options().clustered
    assert Options(redis_url=("redis://127.0.0.1",)).clustered
    assert Options(redis_sentinels=(("127.0.0.1", 26379),), redis_master="main").clustered
