"""A book of one chapter in a temporary folder, to plant faults in; the rendered book; a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tools import execute, site

ROOT = Path(__file__).resolve().parents[2]
STEM = "ch99_walk"
# A browser that finds no host at all.
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OFFLINE += ["--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small book, executed. Its kernels see a library of the files copied here, so they start without torch."""
    root = tmp_path_factory.mktemp("mini")
    shutil.copytree(ROOT / "tests" / "book" / "mini", root, dirs_exist_ok=True)
    shutil.copytree(ROOT / "book" / "_ext", root / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static", ignore=shutil.ignore_patterns("vendor"))
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "sdelib" / "__init__.py").touch()
    library = ("sdelib/claims.py", "sdelib/show.py", "sdelib/exercises/__init__.py", "sdelib/exercises/verdict.py")
    for name in ("_config.yml", "book/references.bib", *library):
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


@pytest.fixture(scope="session")
def html() -> Path:
    """The rendered book: SDELIB_SITE, or _build/html where it is newer than its sources, else made now."""
    if "SDELIB_SITE" in os.environ:
        return Path(os.environ["SDELIB_SITE"]).resolve()
    built = ROOT / "_build" / "html"
    folders = [ROOT / "book", ROOT / "notebooks"]
    sources = [p for folder in folders for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    newest = max(p.stat().st_mtime for p in [*sources, ROOT / "_config.yml", ROOT / "_toc.yml"])
    index = built / "index.html"
    if not index.exists() or index.stat().st_mtime < newest:
        if "PYTEST_XDIST_WORKER" in os.environ:  # several workers would build into one folder
            pytest.fail("the rendered book is older than its sources: make book")
        assert site.build(ROOT) == 0
    return built


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OFFLINE)
        yield browser
        browser.close()
