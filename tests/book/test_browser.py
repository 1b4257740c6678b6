"""Every page as a reader opens it: from a folder, wide, on a phone, in the dark, with no network."""

import shutil

import pytest

from tests.book.checks import external_hosts
from tests.book.conftest import ROOT, STEM
from tests.book.pages import LOOKS, PAGES, complaints, visit
from tools import execute, site

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("page", PAGES)
def test_page_opens_without_fault(html, browser, page, look):
    seen = visit(browser, html / f"{page}.html", look)
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
    said = "\n".join(complaints(visit(browser, page, "narrow")))
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
