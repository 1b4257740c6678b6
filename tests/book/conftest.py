"""A book of one chapter in a temporary folder, to plant faults in; a finder for the browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import execute

ROOT = Path(__file__).resolve().parents[2]
STEM = "ch99_walk"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small book, executed. Its kernels see a library of the files copied here, so they start without torch."""
    root = tmp_path_factory.mktemp("mini")
    shutil.copytree(ROOT / "tests" / "book" / "mini", root, dirs_exist_ok=True)
    shutil.copytree(ROOT / "book" / "_ext", root / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static", ignore=shutil.ignore_patterns("vendor"))
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "sdelib").mkdir()
    (root / "sdelib" / "__init__.py").touch()
    for name in ("_config.yml", "book/references.bib", "sdelib/claims.py", "sdelib/show.py"):
        shutil.copy(ROOT / name, root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        assert execute.main(["--root", str(root)]) == 0
        yield root


@pytest.fixture
def mini(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small book, to be spoilt."""
    root = tmp_path / "book"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("_build"))
    monkeypatch.setenv("PYTHONPATH", str(root))
    return root


def edit(path: Path, old: str, new: str) -> None:
    """Replace what must occur exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium. Without one the tests skip, but where a browser is required they fail."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found:
        return found
    if os.environ.get("CI") == "true" or os.environ.get("SDELIB_REQUIRE_BROWSER") == "1":
        pytest.fail("no browser: install chromium or name one in CHROMIUM")
    pytest.skip("no browser found (chromium, google-chrome or $CHROMIUM): the pages were not opened")
