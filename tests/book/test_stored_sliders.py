"""Sliders as they are stored: HTML alone, whose pixels may differ between machines and whose words may not."""

import json
import re

import pytest

from tests.book.checks import figure_problems
from tests.book.conftest import STEM
from tests.book.test_machinery_bites import nbval
from tools import execute

pytestmark = pytest.mark.book

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def test_a_live_twin_is_not_stored_but_other_widgets_are():
    def output(model, **more):
        return execute.nbformat.v4.new_output("display_data", {VIEW: {"model_id": model}, **more})

    twin, its_knob, own, shared = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
    state = {
        twin: {"state": {"children": [f"IPY_MODEL_{its_knob}", f"IPY_MODEL_{shared}"]}},
        its_knob: {"state": {}},
        own: {"state": {"layout": f"IPY_MODEL_{shared}"}},
        shared: {"state": {}},
    }
    outputs = [output(twin, **{"text/html": "<p>"}), output(own)]
    cell = execute.nbformat.v4.new_code_cell(outputs=outputs)
    book = execute.nbformat.v4.new_notebook(metadata={"widgets": {STATE: {"state": state}}}, cells=[cell])
    execute.normalise(book)
    first, second = book.cells[0].outputs
    assert dict(first.data) == {"text/html": "<p>"}
    (kept, other) = (f"{i:032x}" for i in range(2))
    assert second.data[VIEW]["model_id"] == kept
    assert book.metadata["widgets"][STATE]["state"] == {
        kept: {"state": {"layout": f"IPY_MODEL_{other}"}},
        other: {"state": {}},
    }
    book.cells[0].outputs.pop()
    book.cells[0].outputs.append(output(kept, **{"text/html": "<p>"}))
    execute.normalise(book)
    assert "widgets" not in book.metadata, "no page loads the widget manager for nothing"


def test_the_small_book_stores_no_widget(mini):
    stored = json.loads((mini / "notebooks" / f"{STEM}.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in stored["metadata"]
    assert "sdelib-slider" in json.dumps(stored)


def test_nbval_forgives_pixels_and_not_a_missing_value(mini):
    path = mini / "notebooks" / f"{STEM}.ipynb"
    stored = path.read_text(encoding="utf-8")
    other, changed = re.subn(r"(data:image/webp;base64,)[A-Za-z0-9+/=]+", r"\1UklGRg==", stored)
    assert changed == 8
    path.write_text(other, encoding="utf-8")
    assert nbval(mini).returncode == 0
    assert other.count('[\\"4\\",\\"6\\",') == 1
    path.write_text(other.replace('[\\"4\\",\\"6\\",', '[\\"4\\",\\"5\\",'), encoding="utf-8")
    assert nbval(mini).returncode == 1


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('<img alt="A histogram', '<img alt="" title="A histogram', "a slider whose picture has no alt text"),
        ('"frames":[', '"frames":[null,', "a slider of 9 frames and 8 settings, allowed 48"),
        ("</div>", "<p>more</p>" * 30_000 + "</div>", "allowed 300000"),
        (None, None, "a stored widget view hides the HTML beside it"),
    ],
)
def test_faults_of_a_stored_slider_are_caught(mini, old, new, said):
    assert figure_problems(mini) == []
    path = mini / "notebooks" / f"{STEM}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "sdelib-slider" in "".join(data.get("text/html", "")):
                text = "".join(data["text/html"])
                if old is None:
                    data["application/vnd.jupyter.widget-view+json"] = {"model_id": "0" * 32}
                else:
                    data["text/html"] = text.replace(old, new, 1)
                    assert data["text/html"] != text
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert any(said in problem for problem in figure_problems(mini)), figure_problems(mini)
