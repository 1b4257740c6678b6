"""A reader with a keyboard, a screen reader, a slow disk or a printer: links, search, focus, weight, paper.

axe-core itself runs while ``test_browser.py`` visits each page; here stand the faults that it must see.
"""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.book.checks import SHARED_LIMIT, article_text, dead_links, page_weight, too_heavy
from tests.book.pages import CHAPTERS, LOOKS, complaints, listen, visit

pytestmark = pytest.mark.browser


def planted(html: Path, folder: Path, plant: str, name: str = "how_to_use") -> Path:
    """A copy of a page with something added to its text."""
    if not (folder / "_static").exists():
        shutil.copytree(html / "_static", folder / "_static")
    shutil.copy(html / "searchindex.js", folder)
    page = folder / "book" / f"{name}.html"
    page.parent.mkdir(exist_ok=True)
    good = (html / "book" / f"{name}.html").read_text(encoding="utf-8")
    assert good.count("</article>") == 1
    page.write_text(good.replace("</article>", plant + "</article>"), encoding="utf-8")
    return page


def test_barriers_are_seen(html, browser, tmp_path):
    plant = """
      <input type="range" min="0" max="3"><button><svg></svg></button>
      <p style="color: #999; background: #fff">pale words</p>
      <pre style="background: #fff"><span class="pale" style="color: #bbb">pale = code</span></pre>
      <div style="overflow-x: auto; width: 5rem"><div style="width: 50rem">a box that only a mouse can scroll</div></div>"""
    seen = visit(browser, planted(html, tmp_path, plant), "wide")
    said = "\n".join(seen["barriers"])
    for fault in (
        "critical label, 1 times",
        "critical button-name",
        "serious color-contrast, 2 times",
        "scrollable-region-focusable",
    ):
        assert fault in said, f"{fault!r} not in {said!r}"


SVG = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='9' height='9'%3E"
PICTURE = SVG + "%3Crect width='9' height='{}'/%3E%3C/svg%3E"
SLIDER = """
<div class="sdelib-slider"><img alt="A bar, its height: {alt}" src="{one}"><label>{label}<input type="range" max="1" value="0"
 aria-valuetext="low"></label><output>low</output><script>{{
  const me = document.currentScript.parentElement, img = me.querySelector("img"), knob = me.querySelector("input");
  const say = s => {{ knob.setAttribute("aria-valuetext", s); me.querySelector("output").textContent = s; }};
  knob.oninput = () => {{ const s = ["low", "high"][knob.value]; say(s); img.alt = "A bar, its height: " + s;
    img.src = knob.value === "0" ? "{one}" : "{two}"; }};
}}</script></div>"""


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, None),
        ({"two": PICTURE.format(4)}, "its picture does not change from low to high"),
        ({"label": ""}, "has no label"),
        ({"alt": "middle"}, "opens elsewhere than stored"),
    ],
)
def test_sliders_that_lie_are_seen(html, browser, tmp_path, change, said):
    parts = {"alt": "low", "label": "height", "one": PICTURE.format(4), "two": PICTURE.format(8), **change}
    seen = visit(browser, planted(html, tmp_path, SLIDER.format(**parts)), "wide")
    if said is None:
        assert complaints(seen) == []
    else:
        assert said in "\n".join(seen["stuck"])


# ---------------------------------------------------------------- links and search
def test_every_link_of_every_page_leads_somewhere(html):
    assert dead_links(html) == []


def test_dead_links_are_seen(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "other.html").write_text('<h1 id="here">x</h1><a href="../page.html#top">back</a>')
    (tmp_path / "page.html").write_text(
        '<p id="top"><a href="b/other.html#here">good</a> <a href="b/other.html#there">no such place</a>'
        '<a href="gone.html">no such page</a> <a href="#lost">not here</a> <a href="https://example.org/x">not asked</a></p>'
    )
    assert dead_links(tmp_path) == [
        "page.html: b/other.html#there: no such place on that page",
        "page.html: gone.html: no such file",
        "page.html: #lost: no such place on that page",
    ]


def own_words(html: Path) -> dict[str, str]:
    """For each chapter the word that it uses most among those that few other chapters use."""
    words = {p: Counter(re.findall(r"[a-z]{7,}", article_text(html / f"{p}.html").lower())) for p in CHAPTERS}
    spread = Counter(w for counted in words.values() for w in counted)
    return {p: max(words[p], key=lambda w: (-spread[w], words[p][w], w)) for p in CHAPTERS}


def test_search_finds_a_word_of_each_chapter(html, browser):
    context = browser.new_context()
    page = context.new_page()
    for chapter, word in own_words(html).items():
        wrong = listen(page)
        page.goto((html / "search.html").as_uri() + f"?q={word}")
        found = page.locator(f'#search-results li a[href*="{chapter}.html"]').first
        found.wait_for(timeout=10_000)
        assert wrong == []
        assert (html / found.get_attribute("href").partition("?")[0].partition("#")[0]).is_file()
    context.close()


# ---------------------------------------------------------------- keyboard
FOCUS = (
    "() => { const e = document.activeElement; return `${e.tagName} ${e.className} ${e.id} ${e.textContent.trim()}`; }"
)


def test_the_first_key_offers_to_skip_to_the_text(html, browser):
    context = browser.new_context(**LOOKS["wide"])
    page = context.new_page()
    page.goto((html / f"{CHAPTERS[0]}.html").as_uri())
    page.keyboard.press("Tab")
    assert "Skip to main content" in page.evaluate(FOCUS)
    page.keyboard.press("Enter")
    assert page.evaluate("() => location.hash") == "#main-content"
    page.keyboard.press("Tab")
    assert page.evaluate("() => !!document.activeElement.closest('main')")
    context.close()


def test_the_contents_open_and_close_by_keyboard_on_a_phone(html, browser):
    context = browser.new_context(**LOOKS["narrow"])
    page = context.new_page()
    page.goto((html / f"{CHAPTERS[0]}.html").as_uri())
    link = page.locator(".bd-links a", has_text="Notation").first
    assert not link.is_visible()
    page.locator("button.primary-toggle").first.focus()
    page.keyboard.press("Enter")
    link.wait_for(state="visible")
    page.keyboard.press("Escape")
    link.wait_for(state="hidden")
    page.locator("button.primary-toggle").first.focus()
    page.keyboard.press("Enter")
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/notation.html")
    context.close()


def test_what_is_folded_opens_by_keyboard_and_long_code_scrolls(html, browser):
    context = browser.new_context(**LOOKS["narrow"])
    page = context.new_page()
    page.goto((html / f"{CHAPTERS[0]}.html").as_uri())
    fold = page.locator("details.hide").first
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.evaluate("e => e.open")
    solution = page.locator(".solution.dropdown").first
    body = solution.locator("p:not(.admonition-title)").first
    assert not body.is_visible()
    button = solution.locator("button.toggle-button").first
    assert "Solution" in button.get_attribute("aria-label")
    button.focus()
    page.keyboard.press("Enter")
    body.wait_for(state="visible")
    code = page.locator("pre[tabindex='0']").first
    code.wait_for()
    code.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("e => e.scrollLeft > 0", arg=code.element_handle())
    context.close()


# ---------------------------------------------------------------- weight and paper
def test_no_page_is_too_heavy(html):
    assert too_heavy(html) == []


def test_weight_counts_pictures_once_and_scripts_apart(tmp_path):
    (tmp_path / "a.js").write_bytes(bytes(1000))
    (tmp_path / "i.png").write_bytes(bytes(300))
    page = tmp_path / "page.html"
    page.write_text(
        '<script src="a.js?v=1"></script><img src="i.png"><img src="i.png"><img src="data:image/png;base64,AA">'
    )
    assert page_weight(page) == (page.stat().st_size + 300, 1000)
    (tmp_path / "i.png").write_bytes(bytes(3_000_000))
    (tmp_path / "a.js").write_bytes(bytes(SHARED_LIMIT + 1))
    assert ["the page itself" in p for p in too_heavy(tmp_path)] == [True, False]


def test_a_printed_chapter_is_whole_and_has_no_furniture(html, browser):
    context = browser.new_context(**LOOKS["wide"])
    page = context.new_page()
    page.goto((html / f"{CHAPTERS[0]}.html").as_uri())
    page.emulate_media(media="print")
    furniture = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-area"
    assert not [e.get_attribute("class") for e in page.locator(furniture).all() if e.is_visible()]
    cut = (
        """() => [...document.querySelectorAll("article pre")].filter(e => e.scrollWidth > e.clientWidth + 1).length"""
    )
    assert page.evaluate(cut) == 0
    context.close()
