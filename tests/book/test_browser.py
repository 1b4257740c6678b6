"""Every page as a reader opens it: from a folder, wide, on a phone, in the dark, with no network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, sync_playwright

from tests.book.checks import external_hosts
from tests.book.conftest import ROOT, STEM
from tools import execute, site

pytestmark = pytest.mark.browser

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(entry["file"] for entry in site.pages(TOC)), "search", "genindex"]
LOOKS = {
    "wide": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OFFLINE += ["--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"]

# Everything that is read off a page, in one visit.
INSPECT = r"""
async () => {
  if (document.querySelector(".math") && !(window.MathJax && MathJax.startup)) return {fault: "MathJax is absent"};
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  // what is folded away is read, too
  document.querySelectorAll("details").forEach(d => d.open = true);
  document.querySelectorAll(".admonition.dropdown.toggle-hidden button.toggle-button").forEach(b => b.click());
  await new Promise(resolve => setTimeout(resolve, 100));
  const article = document.querySelector("article.bd-article") || document.body;
  const say = e => `<${e.tagName.toLowerCase()} class="${e.className}"> ${(e.textContent || e.outerHTML).trim().slice(0, 80)}`;
  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  const red = e => /color:\s*(red|#f00|rgb\(255, 0, 0\))/i.test(e.getAttribute("style") || "");
  const scrolls = e => { for (; e && e !== article; e = e.parentElement)
    if (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX)) return true; return false; };
  const hidden = e => { const r = e.getBoundingClientRect(); return r.width < 2 || r.height < 2; };
  const beyond = [...article.querySelectorAll("*")].filter(e => !hidden(e) && !e.closest("mjx-assistive-mml")
    && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement));
  const images = [...article.querySelectorAll("img")];
  images.forEach(i => { i.loading = "eager"; });
  await Promise.all(images.map(i => i.decode().catch(() => 0)));
  return {
    formulas: article.querySelectorAll(".math").length,
    rendered: article.querySelectorAll(".math mjx-container").length,
    merror: [...article.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.getAttribute("data-mjx-error") || say(e)),
    red: [...article.querySelectorAll("mjx-container *")].filter(red).map(say),
    raw: prose.textContent.match(/\$\$|\\\(|\\\[|\\begin\{|\\frac|\{(eq|numref|cite:[pt]|ref)\}/g) || [],
    sideways: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth,
    beyond: beyond.slice(0, 3).map(say),
    broken: images.filter(i => !i.naturalWidth).map(i => i.src),
    wordless: images.filter(i => !(i.alt || "").trim()).map(i => i.src),
  };
}
"""


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
        assert site.build(ROOT) == 0
    return built


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OFFLINE)
        yield browser
        browser.close()


def visit(browser: Browser, page_file: Path, look: dict) -> dict:
    """Open a page and return what was seen and what went wrong."""
    context = browser.new_context(**look)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(f"script: {e}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(f"asked: {r.url}"),
    )
    page.goto(page_file.as_uri(), wait_until="load")
    seen = page.evaluate(INSPECT)
    dark = page.evaluate("() => document.documentElement.dataset.theme")
    context.close()
    return {**seen, "wrong": wrong, "theme": dark}


def complaints(seen: dict) -> list[str]:
    """Say what a reader would stumble over."""
    found = [
        f"{name}: {seen[name]}"
        for name in ("wrong", "merror", "red", "raw", "beyond", "broken", "wordless")
        if seen.get(name)
    ]
    if seen.get("fault"):
        found.append(seen["fault"])
    if seen.get("rendered", 0) < seen.get("formulas", 0):
        found.append(f"{seen['formulas']} formulas, {seen['rendered']} rendered")
    if seen.get("sideways", 0) > 0:
        found.append(f"the page scrolls sideways by {seen['sideways']} px")
    return found


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("page", PAGES)
def test_page_opens_without_fault(html, browser, page, look):
    seen = visit(browser, html / f"{page}.html", LOOKS[look])
    assert complaints(seen) == []
    if page.startswith("notebooks/"):
        assert seen["rendered"] > 10, "a chapter without mathematics: was it rendered?"
    assert seen["theme"] == LOOKS[look]["color_scheme"]


def test_search_finds_chapters_from_a_folder(html, browser):
    context = browser.new_context()
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.goto((html / "search.html").as_uri() + "?q=notation")
    page.locator("#search-results li a", has_text="Notation").first.wait_for()
    assert wrong == []
    context.close()


def test_no_page_names_another_host_as_a_resource(html):
    assert external_hosts(html) == []


def test_faults_of_a_page_are_seen(html, browser, tmp_path):
    shutil.copytree(html / "_static", tmp_path / "_static")
    page = tmp_path / "book" / "notation.html"
    page.parent.mkdir()
    good = (html / "book" / "notation.html").read_text(encoding="utf-8")
    plant = r"""
      <p class="tex2jax_ignore">lost: $$x$$</p><p class="math">\(\nosuchmacro x\)</p><p class="math">\(\color{red} y\)</p>
      <img src="gone.png"><div style="width: 2000px">wide</div>
      <script>console.error("planted")</script><script src="https://example.org/x.js"></script>"""
    page.write_text(good.replace("</article>", plant + "</article>"), encoding="utf-8")
    said = "\n".join(complaints(visit(browser, page, LOOKS["narrow"])))
    for fault in (
        "console: planted",
        "asked: https://example.org/x.js",
        "Undefined control sequence",
        "red: [",
        "raw: ['$$'",
        "gone.png",
        "wordless",
        "scrolls sideways",
        "wide",
    ):
        assert fault in said, f"{fault!r} not in {said}"


def test_widgets_stand_without_a_kernel_or_a_network(mini, browser):
    text = mini / "book" / f"{STEM}.md"
    cell = """\n```{code-cell} ipython3
import ipywidgets as w

a, b = w.IntSlider(value=3), w.IntSlider()
_ = w.jslink((a, "value"), (b, "value"))
w.VBox([a, b, w.ToggleButton(icon="check", description="ok")])
```\n"""
    text.write_text(text.read_text(encoding="utf-8") + cell, encoding="utf-8")
    assert execute.main(["--root", str(mini)]) == 0
    first = (mini / "notebooks" / f"{STEM}.ipynb").read_bytes()
    assert execute.main(["--root", str(mini), "--force"]) == 0
    assert (mini / "notebooks" / f"{STEM}.ipynb").read_bytes() == first
    shutil.copytree(ROOT / "book" / "_static" / "vendor", mini / "book" / "_static" / "vendor")
    assert site.build(mini) == 0
    context = browser.new_context()
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("requestfailed", lambda r: wrong.append(r.url))
    page.goto((mini / "_build" / "html" / "notebooks" / f"{STEM}.html").as_uri())
    page.locator(".widget-slider").nth(1).wait_for()
    page.locator(".widget-readout").first.fill("42")
    page.locator(".widget-readout").first.press("Enter")
    assert page.locator(".widget-readout").nth(1).inner_text() == "42"
    page.evaluate("document.fonts.ready")
    assert wrong == []
    context.close()
