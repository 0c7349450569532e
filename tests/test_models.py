"""What the database knows, and that the migrations say the same."""

from django.core.management import call_command

from proxy.models import Node, Session


def test_the_migrations_are_complete() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_names() -> None:
    assert str(Session(key="bob")) == "bob"
    assert str(Node(name="a.example", pid=7)) == "a.example process 7"
