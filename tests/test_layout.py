"""Rules of the house that a machine can check."""

import inspect
from pathlib import Path

from proxy import exceptions

ROOT = Path(__file__).parent.parent
MODULES = [path for path in (ROOT / "proxy").rglob("*.py") if path.parent.name != "migrations"]


def test_every_module_has_its_tests() -> None:
    modules = [path.stem for path in MODULES if path.stem not in ("__init__", "apps")]
    missing = [name for name in modules if not (ROOT / f"tests/test_{name}.py").exists()]
    assert not missing


def test_every_module_says_what_it_holds() -> None:
    for path in [*MODULES, *(ROOT / "kbproject").rglob("*.py")]:
        text = path.read_text()
        assert not text or text.startswith('"""'), path
        assert len(text.splitlines()) <= 250, path


def test_the_error_tree_is_drawn_as_it_is() -> None:
    """The drawing at the top of exceptions.py names every class, deeper ones further in."""
    drawing = inspect.getdoc(exceptions) or ""
    for name, value in vars(exceptions).items():
        if inspect.isclass(value) and issubclass(value, exceptions.KuiperbeltError):
            (line,) = [line for line in drawing.splitlines() if name in line.replace("─", " ").split()]
            assert line.index(name) == 4 * (len(value.__mro__) - len(exceptions.KuiperbeltError.__mro__)), name


def test_only_the_settings_read_the_environment() -> None:
    for path in (ROOT / "proxy").rglob("*.py"):
        assert "os.environ" not in path.read_text(), path


def test_the_readme_says_where_each_module_is() -> None:
    readme = (ROOT / "README.md").read_text()
    listed = readme[readme.index("## Where things are") :].split()
    missing = [path.name for path in (ROOT / "proxy").glob("*.py") if path.name not in (*listed, "__init__.py")]
    assert not missing
