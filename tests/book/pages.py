"""How a rendered page is opened, and everything that is read off it in one visit, as functions for planted faults too."""

from pathlib import Path

import yaml
from playwright.sync_api import Browser, Page

from tests.book.conftest import ROOT
from tools import site

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = list(dict.fromkeys([TOC["root"], *(entry["file"] for entry in site.pages(TOC)), "search", "genindex"]))
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
LOOKS = {
    "wide": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
# axe-core sees both layouts and both sets of colours in two of the three looks.
INSPECTED = ("wide", "dark")

# Everything that is read off a page, in one visit.
INSPECT = r"""
async () => {
  if (document.querySelector(".math") && !(window.MathJax && MathJax.startup)) return {fault: "MathJax is absent"};
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  // what is folded away is read, too
  document.querySelectorAll("details").forEach(d => d.open = true);
  document.querySelectorAll(".admonition.dropdown.toggle-hidden button.toggle-button").forEach(b => b.click());
  await new Promise(resolve => setTimeout(resolve, 100));
  document.getAnimations().forEach(a => { try { a.finish(); } catch { a.cancel(); } });
  const article = document.querySelector("article.bd-article") || document.body;
  const say = e => `<${e.tagName.toLowerCase()} class="${e.className}"> ${(e.textContent || e.outerHTML).trim().slice(0, 80)}`;
  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  const red = e => /color:\s*(red|#f00|rgb\(255, 0, 0\))/i.test(e.getAttribute("style") || "");
  const scrolls = e => { for (; e && e !== article; e = e.parentElement)
    if (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX)) return true; return false; };
  const box = e => e.getBoundingClientRect();
  const hidden = e => box(e).width < 2 || box(e).height < 2;
  const beyond = [...article.querySelectorAll("*")].filter(e => !hidden(e) && !e.closest("mjx-assistive-mml")
    && box(e).right > innerWidth + 1 && !scrolls(e.parentElement));
  // code and tables may scroll in their boxes; a control must not hide there, nor shrink to nothing
  const lost = [...article.querySelectorAll("input, select, .sdelib-slider button, .sdelib-slider img")]
    .filter(e => !e.closest("dialog:not([open])"))
    .filter(e => hidden(e) || box(e).left < 0 || box(e).right > innerWidth + 1 || e.type === "range" && box(e).width < 90);
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
    lost: lost.map(e => e.outerHTML.slice(0, 80)),
    broken: images.filter(i => !i.naturalWidth).map(i => i.src.slice(0, 200)),
    wordless: images.filter(i => !(i.alt || "").trim()).map(i => i.src.slice(0, 200)),
  };
}
"""

AXE = ROOT / "tests" / "book" / "vendor" / "axe" / "axe.min.js"
# axe-core's time grows with the number of elements, and a chapter has twenty thousand, most of them coloured words of code
# and glyphs. A kind of word has one colour on one ground, and glyphs have their text's: each kind of word is looked at
# where it first occurs, and of the formulas the first twenty. With that a chapter takes a quarter of the time.
RUN_AXE = r"""
async () => {
  const seen = new Set();
  document.querySelectorAll("pre").forEach(pre => {
    const ground = [getComputedStyle(pre).backgroundColor, pre.closest(".admonition, .sd-card, .sdelib-claim")?.className];
    const kinds = [...pre.querySelectorAll("*")].map(e => [e.tagName, e.className, ...ground].join()).filter(k => !seen.has(k));
    if (!kinds.length) pre.textContent = pre.textContent;
    kinds.forEach(k => seen.add(k));
  });
  document.querySelectorAll("mjx-container").forEach((formula, i) => { if (i >= 20) formula.replaceChildren(); });
  const {violations} = await axe.run(document, {resultTypes: ["violations"], preload: false});
  const why = n => (n.any[0] || n.all[0] || n.none[0] || {message: ""}).message;
  return violations.filter(v => ["serious", "critical"].includes(v.impact)).map(v =>
    `${v.impact} ${v.id}, ${v.nodes.length} times, first ${v.nodes[0].html.slice(0, 160)}: ${why(v.nodes[0])}`);
}
"""

# The bytes of a slider's picture as drawn, and what its knobs say.
READ_SLIDER = r"""
async figure => {
  const img = figure.querySelector("img");
  await img.decode();
  const canvas = new OffscreenCanvas(img.naturalWidth, img.naturalHeight), pen = canvas.getContext("2d");
  pen.drawImage(img, 0, 0);
  const hash = await crypto.subtle.digest("SHA-256", pen.getImageData(0, 0, canvas.width, canvas.height).data);
  const knobs = [...figure.querySelectorAll("input[type=range]")];
  return {
    pixels: [...new Uint8Array(hash)].map(b => b.toString(16).padStart(2, "0")).join(""),
    alt: img.alt,
    values: knobs.map(k => k.getAttribute("aria-valuetext")),
    shown: [...figure.querySelectorAll("output")].map(o => o.textContent),
    labels: knobs.map(k => [...k.labels].map(l => l.textContent.trim()).join(" ") || k.getAttribute("aria-label") || ""),
    stored: knobs.map(k => k.value === k.defaultValue),
  };
}
"""


def visit(browser: Browser, page_file: Path, look: str) -> dict:
    """Open a page and return what was seen and what went wrong."""
    context = browser.new_context(**LOOKS[look])
    page = context.new_page()
    wrong = listen(page)
    page.goto(page_file.as_uri(), wait_until="load")
    seen = page.evaluate(INSPECT)
    theme = page.evaluate("() => document.documentElement.dataset.theme")
    barriers: list[str] = []
    if look in INSPECTED:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        barriers = page.evaluate(RUN_AXE)
    stuck = move_sliders(page) if look == "wide" else []
    context.close()
    return {**seen, "wrong": wrong, "theme": theme, "barriers": barriers, "stuck": stuck}


def listen(page: Page) -> list[str]:
    """Collect what a page reports as wrong, and whatever it asks of another host, while it lives."""
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(f"script: {e}"))
    # what a reader leaves before it has come (the next page, an icon) was aborted, which is no fault
    page.on(
        "requestfailed", lambda r: None if "ABORTED" in (r.failure or "") else wrong.append(f"failed: {r.url[:200]}")
    )
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(f"asked: {r.url}"),
    )
    return wrong


def move_sliders(page: Page) -> list[str]:
    """Move every knob of every slider one step by keyboard and back; say what did not follow."""
    problems = []
    for n, figure in enumerate(page.locator(".sdelib-slider").all()):
        before = figure.evaluate(READ_SLIDER)
        for k, knob in enumerate(figure.locator("input[type=range]").all()):
            name = f"slider {n}, knob {before['labels'][k]!r}"
            if not before["labels"][k]:
                problems.append(f"{name} has no label")
            if not before["stored"][k] or before["values"][k] not in before["alt"]:
                problems.append(f"{name} opens elsewhere than stored, at {before['values'][k]}: {before['alt'][-60:]}")
            at_end = knob.evaluate("e => e.value === e.max")
            there, back = ("ArrowLeft", "ArrowRight") if at_end else ("ArrowRight", "ArrowLeft")
            knob.focus()
            page.keyboard.press(there)
            moved = figure.evaluate(READ_SLIDER)
            if moved["pixels"] == before["pixels"]:
                problems.append(
                    f"{name}: its picture does not change from {before['values'][k]} to {moved['values'][k]}"
                )
            if moved["values"][k] == before["values"][k] or moved["shown"] != moved["values"]:
                problems.append(
                    f"{name}: moved from {before['values'][k]} to {moved['values'][k]}, shows {moved['shown'][k]}"
                )
            if moved["alt"] == before["alt"]:
                problems.append(f"{name}: the words for the picture stay {moved['alt'][-60:]!r}")
            page.keyboard.press(back)
            if figure.evaluate(READ_SLIDER) != before:
                problems.append(f"{name}: the way back does not lead to the picture of before")
    return problems


def complaints(seen: dict) -> list[str]:
    """Say what a reader would stumble over."""
    lists = ("wrong", "merror", "red", "raw", "beyond", "lost", "broken", "wordless", "barriers", "stuck")
    found = [f"{name}: {seen[name]}" for name in lists if seen.get(name)]
    if seen.get("fault"):
        found.append(seen["fault"])
    if seen.get("rendered", 0) < seen.get("formulas", 0):
        found.append(f"{seen['formulas']} formulas, {seen['rendered']} rendered")
    if seen.get("sideways", 0) > 0:
        found.append(f"the page scrolls sideways by {seen['sideways']} px")
    return found
