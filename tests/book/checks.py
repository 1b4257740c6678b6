"""What must hold for every stored notebook and every rendered page, as functions, so that tests can plant faults."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from sdelib.show import MAX_BYTES, MAX_FRAMES

NOTEBOOK_LIMIT, PICTURE_LIMIT = 1_500_000, 150_000


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def figure_problems(root: Path) -> list[str]:
    """Pictures without words, too many in a cell, or too large; notebooks too large."""
    problems = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        if path.stat().st_size > NOTEBOOK_LIMIT:
            problems.append(f"{path.name}: {path.stat().st_size} bytes, allowed {NOTEBOOK_LIMIT}")
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            where = f"{path.name}, cell {i}"
            if cell["cell_type"] == "markdown":
                if re.search(r"!\[\s*\]\(", joined(cell["source"])):
                    problems.append(f"{where}: a picture in the text has no alt text")
                continue
            data = [output.get("data", {}) for output in cell["outputs"]]
            pictures = [(kind, joined(d[kind])) for d in data for kind in d if kind.startswith("image/")]
            for kind, picture in pictures:
                size = len(picture) if kind == "image/svg+xml" else len(base64.b64decode(picture))
                if size > PICTURE_LIMIT:
                    problems.append(f"{where}: a picture of {size} bytes, allowed {PICTURE_LIMIT}")
            alt = str(cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", ""))
            if pictures and len(alt.split()) < 5:
                problems.append(f"{where}: a picture without alt text (mystnb: image: alt: ...), got {alt!r}")
            if len(pictures) > 1:
                problems.append(f"{where}: {len(pictures)} pictures share one alt text: give each its cell")
            for page in (joined(d["text/html"]) for d in data if "text/html" in d):
                drawn = re.search(r"<(canvas|svg|img)\b", page)
                if drawn and not re.search(r"""(aria-label|alt)\s*=\s*["'][^"']+["']""", page):
                    problems.append(f"{where}: <{drawn[1]}> in HTML output has neither aria-label nor alt")
                if 'class="sdelib-slider"' in page:
                    problems += [f"{where}: {problem}" for problem in slider_problems(page)]
            if any(
                kind.startswith("application/vnd.jupyter.widget-view") and "text/html" in d for d in data for kind in d
            ):
                problems.append(f"{where}: a stored widget view hides the HTML beside it: run tools/execute.py")
    return problems


def slider_problems(page: str) -> list[str]:
    """A slider without words, too large, or with frames that do not match its knobs."""
    problems = []
    if len(page.encode()) > MAX_BYTES:
        problems.append(f"a slider of {len(page.encode())} bytes, allowed {MAX_BYTES}")
    alt = re.search(r'<img alt="([^"]*)"', page)
    if alt is None or len(alt[1].split()) < 5:
        problems.append("a slider whose picture has no alt text")
    stored = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    if stored is None:
        return [*problems, "a slider without its frames"]
    data = json.loads(stored[1])
    settings = math.prod(len(texts) for _, texts in data["texts"])
    if not settings == len(data["frames"]) <= MAX_FRAMES:
        problems.append(f"a slider of {len(data['frames'])} frames and {settings} settings, allowed {MAX_FRAMES}")
    return problems


class Resources(HTMLParser):
    """Collect what a page would fetch by itself; links that wait for a click do not count."""

    FETCHED = frozenset({"src", "srcset", "poster", "data", "data-jupyter-widgets-cdn"})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {k: v or "" for k, v in attrs}
        self.inside = tag
        if tag == "link" and named.get("rel") not in ("canonical", "license", "author", "next", "prev"):
            self.addresses.append(named.get("href", ""))
        self.addresses += [named[k] for k in self.FETCHED & named.keys()]
        self.addresses += re.findall(r"url\(([^)]*)\)", named.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.addresses += re.findall(r"""["'`](?:https?:)?//[\w.-]+[^"'`\s]*""", data)
        if self.inside == "style":
            self.addresses += css_addresses(data)


def css_addresses(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)


def external_hosts(html: Path) -> list[str]:
    """Addresses on other machines that opening the pages or their style sheets would ask for."""
    problems = []
    for path in sorted(html.rglob("*.html")):
        parser = Resources()
        parser.feed(path.read_text(encoding="utf-8"))
        problems += [f"{path.relative_to(html)}: {a}" for a in parser.addresses if is_external(a)]
    for path in sorted(html.rglob("*.css")):
        found = css_addresses(path.read_text(encoding="utf-8"))
        problems += [f"{path.relative_to(html)}: {a}" for a in found if is_external(a)]
    return problems


def is_external(address: str) -> bool:
    return bool(re.match(r"""["'`\s]*(https?:)?//""", address))


# A page's own HTML and pictures, and what it shares with the others (scripts and styles; MathJax and icons for the most part).
PAGE_LIMIT, SHARED_LIMIT = 2_000_000, 5_000_000


class Page(HTMLParser):
    """A page's links, the places they can lead to, the files it needs, and the words of its article."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.pictures: set[str] = set()
        self.shared: set[str] = set()
        self.words: list[str] = []
        self.article, self.silent = False, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {k: v or "" for k, v in attrs}
        self.places |= {named[k] for k in ("id", "name") if k in named}
        self.article |= tag == "article"
        self.silent = tag if tag in ("script", "style", "pre") else self.silent
        if tag in ("a", "area") and "href" in named:
            self.links.append(named["href"])
        if tag == "img":
            self.pictures.add(named.get("src", ""))
        if (tag == "script" and "src" in named) or (tag == "link" and named.get("rel") == "stylesheet"):
            self.shared.add(named.get("src") or named.get("href", ""))

    def handle_endtag(self, tag: str) -> None:
        self.article &= tag != "article"
        self.silent = "" if tag == self.silent else self.silent

    def handle_data(self, data: str) -> None:
        if self.article and not self.silent:
            self.words.append(data)


def rendered(html: Path) -> list[Path]:
    return [p for p in sorted(html.rglob("*.html")) if "_static" not in p.relative_to(html).parts]


def article_text(path: Path) -> str:
    return " ".join(Page(path).words)


def dead_links(html: Path) -> list[str]:
    """Links within the book that lead to no file, or to no place in it."""
    pages = {path.resolve(): Page(path) for path in rendered(html)}
    problems = []
    for path, page in pages.items():
        for link in page.links:
            address, _, place = link.partition("#")
            if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
                continue
            target = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
            where = f"{path.relative_to(html.resolve())}: {link}"
            if not target.is_file():
                problems.append(f"{where}: no such file")
            elif place and target in pages and unquote(place) not in pages[target].places:
                problems.append(f"{where}: no such place on that page")
    return problems


def page_weight(path: Path) -> tuple[int, int]:
    """Bytes of the page with its pictures, and of the scripts and styles that pages share."""
    page = Page(path)

    def weigh(addresses: set[str]) -> int:
        local = {a.partition("?")[0] for a in addresses if not a.startswith(("data:", "http:", "https:", "//"))}
        return sum((path.parent / unquote(a)).stat().st_size for a in local if a)

    return path.stat().st_size + weigh(page.pictures), weigh(page.shared)


def too_heavy(html: Path) -> list[str]:
    problems = []
    for path in rendered(html):
        own, shared = page_weight(path)
        where = path.relative_to(html)
        if own > PAGE_LIMIT:
            problems.append(f"{where}: the page itself and its pictures have {own} bytes, allowed {PAGE_LIMIT}")
        if shared > SHARED_LIMIT:
            problems.append(f"{where}: its scripts and styles have {shared} bytes, allowed {SHARED_LIMIT}")
    return problems
