"""A chapter for real: a Jupyter server, its page in a browser, every cell run, a live knob moved, the text opened."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.book.conftest import OFFLINE, ROOT
from tools import lab

pytestmark = pytest.mark.browser

CHAPTER = "ch05_ve_vp_subvp"  # the chapter that runs fastest among those with a slider
PATIENCE_MS = 300_000  # its run takes seconds; several times that where the machine is busy
LOCAL = [option.replace("~NOTFOUND", "~NOTFOUND, EXCLUDE 127.0.0.1") for option in OFFLINE]

CELLS = "(jupyterapp.shell.currentWidget?.content?.model?.sharedModel?.cells ?? []).filter(c => c.cell_type === 'code')"
STATE = f"""() => {{
  const cells = {CELLS}.filter(c => c.source.trim());
  const outputs = cells.flatMap(c => c.getOutputs());
  return {{
    cells: cells.length,
    run: cells.filter(c => c.execution_count).length,
    outputs: outputs.length,
    errors: outputs.filter(o => o.output_type === "error").map(o => `${{o.ename}}: ${{o.evalue}}`),
    kernel: jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status,
  }};
}}"""
# Scroll to the cell that makes the first live slider.
SHOW_SLIDER = """() => {
  const notebook = jupyterapp.shell.currentWidget.content;
  const at = notebook.widgets.findIndex(w => w.model.sharedModel.cell_type === "code" && w.model.sharedModel.getOutputs()
    .some(o => o.data && "application/vnd.jupyter.widget-view+json" in o.data && "text/html" in o.data));
  notebook.activeCellIndex = at;
  notebook.scrollToItem(at, "start");
  return at;
}"""
PIXELS = """async img => {
  await img.decode();
  const canvas = new OffscreenCanvas(img.naturalWidth, img.naturalHeight), pen = canvas.getContext("2d");
  pen.drawImage(img, 0, 0);
  const hash = await crypto.subtle.digest("SHA-256", pen.getImageData(0, 0, canvas.width, canvas.height).data);
  return [...new Uint8Array(hash)].join();
}"""


def until(ready: Callable[[], object], what: str, seconds: float) -> None:
    """Wait for something, and say what did not come."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of what `make lab` starts, on a copy of the chapters, with none of this person's settings."""
    root, home = tmp_path_factory.mktemp("book"), tmp_path_factory.mktemp("home")
    for folder in ("book", "notebooks"):
        leave = shutil.ignore_patterns("_static", "_ext", ".ipynb_checkpoints")
        shutil.copytree(ROOT / folder, root / folder, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", root)
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run"}
    places |= {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = lab.environment() | {name: str(home / folder) for name, folder in places.items()}
    environment.pop("PYTHONPATH", None)  # it may lead to the small book's library
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    options += ["--IdentityProvider.token=walk", "--LabApp.expose_app_in_browser=True"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(lab.command(options, root), env=environment, cwd=root, stdout=log, stderr=log)
    try:

        def announced() -> list[Path]:
            assert process.poll() is None, (home / "log").read_text()
            return list((home / "run").glob("jpserver-*.json"))

        until(announced, "JupyterLab to start", 90)
        yield json.loads(announced()[0].read_text())["url"]
    finally:
        process.terminate()  # the server stops its kernels
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def page(server: str, browser: Browser, chromium: str) -> Iterator[Page]:
    local = browser.browser_type.launch(executable_path=chromium, args=LOCAL)
    page = local.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    local.close()


def open_lab(page: Page, server: str, path: str) -> None:
    page.goto(f"{server}lab/tree/{path}?token=walk&reset")
    page.wait_for_function("() => window.jupyterapp && document.querySelector('.jp-DirListing-item')")


def test_a_chapter_runs_and_its_knob_is_alive(server, page):
    open_lab(page, server, f"notebooks/{CHAPTER}.ipynb")
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
    page.wait_for_function(f"() => {{ const s = ({STATE})(); return s.cells > 0 && s.kernel === 'idle'; }}")

    # what is stored goes first, so that all that is seen then was computed here
    menu(page, "Edit", "editmenu:clear-all")
    assert page.evaluate(STATE)["outputs"] == 0
    menu(page, "Run", "runmenu:run-all")
    page.wait_for_function(
        f"() => {{ const s = ({STATE})(); return s.errors.length || (s.run === s.cells && s.kernel === 'idle'); }}",
        timeout=PATIENCE_MS,
    )
    state = page.evaluate(STATE)
    assert state["errors"] == []
    assert (state["run"], state["kernel"]) == (state["cells"], "idle")
    assert state["outputs"] > state["cells"] / 3

    assert page.evaluate(SHOW_SLIDER) >= 0
    assert page.locator(".jupyter-widgets-error-widget").count() == 0, "a widget failed to draw"
    figure = page.locator(".jp-OutputArea .widget-vbox:has(.widget-image)").first
    picture, knob = figure.locator("img"), figure.locator("[role=slider]").first
    knob.wait_for()
    before, value = picture.evaluate(PIXELS), knob.get_attribute("aria-valuetext")
    knob.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    until(lambda: knob.get_attribute("aria-valuetext") != value, "the knob to move", 10)
    until(lambda: picture.evaluate(PIXELS) != before, "the kernel to draw a new picture", 60)


def test_a_double_click_on_a_text_opens_it_as_a_notebook(server, page):
    open_lab(page, server, "book")
    page.locator(f".jp-DirListing-item:has-text('{CHAPTER}.md')").dblclick()
    tab = page.locator(f".lm-DockPanel-tabBar .lm-TabBar-tab:has-text('{CHAPTER}.md')")
    tab.wait_for()
    page.locator(".jp-NotebookPanel").wait_for()
    page.wait_for_function(f"() => ({STATE})().cells > 0")
    state = page.evaluate(STATE)
    stored = json.loads((ROOT / "notebooks" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))
    assert state["cells"] == sum(c["cell_type"] == "code" for c in stored["cells"])
    assert state["outputs"] > 0, "jupytext shows the text with the outputs of its executed twin"


def menu(page: Page, name: str, command: str) -> None:
    page.locator(".lm-MenuBar-item", has_text=name).first.click()
    page.locator(f".lm-Menu-item[data-command='{command}']").click()
