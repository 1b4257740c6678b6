"""Faults planted in a copy of a small book: each must be caught, and the message must name it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.book.checks import external_hosts, figure_problems
from tests.book.conftest import ROOT, STEM, edit
from tools import claims, execute, pairs, site

pytestmark = pytest.mark.book


def text(root: Path) -> Path:
    return root / "book" / f"{STEM}.md"


def notebook(root: Path) -> Path:
    return root / "notebooks" / f"{STEM}.ipynb"


def test_the_small_book_is_in_order(mini, capsys):
    assert pairs.main(["check", "--root", str(mini)]) == 0
    assert claims.main(["check", "--root", str(mini)]) == 0
    assert figure_problems(mini) == []
    assert execute.main(["--root", str(mini)]) == 0
    assert f"{STEM}: unchanged" in capsys.readouterr().out


# ---------------------------------------------------------------- pairs
def test_edited_twin_is_caught_and_nothing_is_overwritten(mini, capsys):
    edit(notebook(mini), "a hundred steps spread", "a hundred steps draw")
    before = text(mini).read_bytes(), notebook(mini).read_bytes()
    assert pairs.main(["check", "--root", str(mini)]) == 1
    out = capsys.readouterr().out
    assert "differs in its source" in out
    assert "-Equation {eq}`eq-walk` says: a hundred steps spread" in out
    assert pairs.main(["to-text", STEM, "--root", str(mini)]) == 0
    assert "nothing written" in capsys.readouterr().out
    assert (text(mini).read_bytes(), notebook(mini).read_bytes()) == before


def test_edited_tag_and_orphan_are_caught(mini):
    edit(text(mini), ":tags: [hide-input]\n\nimport", ":tags: [remove-input]\n\nimport")
    (mini / "notebooks" / "ch98_orphan.ipynb").write_bytes(notebook(mini).read_bytes())
    first, second = pairs.check(mini)
    assert "differs in its tags" in first
    assert "notebooks/ch98_orphan.ipynb has no book/ch98_orphan.md" in second


# ---------------------------------------------------------------- execution
def test_running_twice_leaves_no_difference(mini):
    before = notebook(mini).read_bytes()
    assert execute.main(["--force", "--root", str(mini)]) == 0
    assert notebook(mini).read_bytes() == before


def test_wrong_truth_in_a_claim_stops_the_chapter_and_keeps_the_old_notebook(mini, capsys):
    edit(text(mini), "    10.0,\n    atol=0.15", "    11.0,\n    atol=0.15")
    before = notebook(mini).read_bytes()
    assert execute.main(["--root", str(mini)]) == 1
    out = capsys.readouterr().out
    assert f"{STEM}: FAILED" in out
    assert "claim 99.1-spread is false" in out
    assert "truth 11.00 ± 0.15" in out
    assert notebook(mini).read_bytes() == before


def test_stamp_knows_text_library_and_recorded_data(mini):
    (mini / "recorded.json").write_text("[1]")
    edit(text(mini), "\nkernelspec:", "\nsdelib:\n  inputs: [recorded.json]\nkernelspec:")
    first = execute.stamp(mini, STEM)
    (mini / "recorded.json").write_text("[2]")
    assert changed(first, execute.stamp(mini, STEM)) == {"inputs"}
    library = mini / "sdelib" / "claims.py"
    edit(library, "# one digit beyond the tolerance's first;", "# two digits? No, one beyond the tolerance's first;")
    assert changed(first, execute.stamp(mini, STEM)) == {"inputs"}  # a comment changes no result
    edit(library, 'return "yes" if x else "no"', 'return "true" if x else "false"')
    assert changed(first, execute.stamp(mini, STEM)) == {"inputs", "library"}
    edit(text(mini), "how far away should we look", "where should we look")
    assert changed(first, execute.stamp(mini, STEM)) == {"inputs", "library", "text"}


def changed(a: dict, b: dict) -> set[str]:
    return {k for k in a if a[k] != b[k]}


def test_widget_names_do_not_depend_on_chance():
    def made(*names):
        view = {"application/vnd.jupyter.widget-view+json": {"model_id": names[0]}}
        state = {names[1]: {"state": {}}, names[0]: {"state": {"layout": f"IPY_MODEL_{names[1]}"}}}
        book = execute.nbformat.v4.new_notebook(
            metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}}},
            cells=[execute.nbformat.v4.new_code_cell(outputs=[execute.nbformat.v4.new_output("display_data", view)])],
        )
        execute.name_cells(book)
        execute.normalise(book)
        return json.dumps(book)

    assert made("a" * 32, "b" * 32) == made("c" * 32, "0" * 32)


# ---------------------------------------------------------------- stored outputs
def nbval(root: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", str(notebook(root))]
    command += [
        "--nbval-sanitize-with",
        str(ROOT / "tests" / "book" / "sanitize.cfg"),
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={root}",
    ]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_nbval_forgives_the_measured_number_and_nothing_else(mini):
    stored = notebook(mini).read_text(encoding="utf-8")
    other = stored.replace("measured 10.05;", "measured 10.06;")
    other = other.replace('sdelib-measured\\">10.05<', 'sdelib-measured\\">10.06<')
    assert other.count("10.06") == 2
    notebook(mini).write_text(other, encoding="utf-8")
    assert nbval(mini).returncode == 0
    edit(notebook(mini), "measured 10.06; truth 10.00", "measured 10.06; truth 10.01")  # a stale output
    result = nbval(mini)
    assert result.returncode == 1
    assert "truth 10.01 ± 0.15" in result.stdout


# ---------------------------------------------------------------- claims
def problems_after(root: Path, old: str, new: str) -> str:
    edit(notebook(root), old, new)
    (problem,) = claims.check(root)
    return problem


def test_wrong_number_in_the_prose_is_caught(mini):
    problem = problems_after(mini, "[10.0](claim:99.1-spread)", "[10.2](claim:99.1-spread)")
    assert "[10.2](claim:99.1-spread) does not agree with the claim: measured 10.0" in problem
    assert "truth 10" in problem


def test_wrong_number_on_a_prose_page_is_caught(mini):
    edit(mini / "book" / "index.md", "[10](claim:99.1-spread)", "[11](claim:99.1-spread)")
    (problem,) = claims.check(mini)
    assert problem.startswith("book/index.md: [11](claim:99.1-spread) does not agree")


def test_link_without_one_number_is_caught(mini):
    problem = problems_after(mini, "[10.0](claim:99.1-spread)", "[far away](claim:99.1-spread)")
    assert "must contain exactly one number" in problem


def test_record_that_does_not_hold_is_caught(mini):
    # the record alone is falsified: it no longer holds, nor agrees with the line shown
    stored = json.loads(notebook(mini).read_text(encoding="utf-8"))
    record = next(records(stored))
    record["truth"] = 12.0
    notebook(mini).write_text(json.dumps(stored), encoding="utf-8")
    found = "\n".join(claims.check(mini))
    assert "claim 99.1-spread is false" in found
    assert "shows" in found
    assert "its record says" in found


def test_record_and_line_that_disagree_are_caught(mini):
    problem = problems_after(mini, "measured 10.05; truth", "measured 10.04; truth")
    assert "claim 99.1-spread shows" in problem
    assert "as text/plain" in problem


def test_ids_are_unique_and_belong_to_their_chapter(mini):
    (mini / "notebooks" / "ch98_copy.ipynb").write_bytes(notebook(mini).read_bytes())
    found = "\n".join(claims.check(mini))
    assert "claim 99.1-spread belongs to chapter 98" in found
    assert "claim 99.1-spread was already made in notebooks/ch98_copy.ipynb" in found


def test_a_claim_that_was_never_run_is_caught(mini):
    stored = json.loads(notebook(mini).read_text(encoding="utf-8"))
    for cell in stored["cells"]:
        if "99.2-pull" in claims.joined(cell["source"]):
            cell["outputs"] = []
    notebook(mini).write_text(json.dumps(stored), encoding="utf-8")
    (problem,) = claims.check(mini)
    assert "calls claim(...) but stores none" in problem


def records(stored: dict):
    for cell in stored["cells"]:
        for output in cell.get("outputs", []):
            if "sdelib_claim" in output.get("metadata", {}):
                yield output["metadata"]["sdelib_claim"]


@pytest.mark.parametrize(
    "label, number, unit",
    [
        ("1.05", 1.05, 0.01),
        ("about 1,000 walkers", 1000, 1),
        ("−0.31", -0.31, 0.01),
        ("5 %", 0.05, 0.01),
        (r"5.3\%", 0.053, 0.001),
        ("1.1e-3", 1.1e-3, 1e-4),
        (r"$1.1\times 10^{-3}$", 1.1e-3, 1e-4),
        (r"$9.93\cdot10^{-4}$", 9.93e-4, 1e-6),
        ("1.1·10⁻³", 1.1e-3, 1e-4),
        ("2 × 10⁵", 2e5, 1e5),
        ("± 0.004", 0.004, 0.001),
    ],
)
def test_numbers_are_read_as_people_write_them(label, number, unit):
    assert claims.read_number(label) == pytest.approx((number, unit), rel=1e-12)


@pytest.mark.parametrize("label", ["", "a few", "1 of 2", "between 3 and 4"])
def test_labels_that_hold_no_single_number(label):
    assert claims.read_number(label) is None


def test_links_inside_code_are_examples_not_promises():
    shown = "A `[1](claim:9.1-x)`\n```md\n[2](claim:9.1-x)\n```\n:::{note}\n[3](claim:9.1-x)\n:::\n"
    shown += "```{note}\n[4](claim:9.1-x)\n```\n```{code-block} md\n[5](claim:9.1-x)\n```\n[6](claim:9.1-x)"
    assert [label for label, _ in claims.LINK.findall(claims.without_code(shown))] == ["3", "4", "6"]


# ---------------------------------------------------------------- pictures
def test_missing_alt_text_and_large_pictures_are_caught(mini):
    stored = json.loads(notebook(mini).read_text(encoding="utf-8"))
    cell = next(c for c in stored["cells"] if any("image/png" in o.get("data", {}) for o in c.get("outputs", [])))
    del cell["metadata"]["mystnb"]["image"]
    cell["outputs"].append({"output_type": "display_data", "metadata": {}, "data": {"image/png": "AAAA" * 60_000}})
    cell["outputs"].append({"output_type": "display_data", "metadata": {}, "data": {"text/html": "<svg></svg>"}})
    notebook(mini).write_text(json.dumps(stored), encoding="utf-8")
    found = "\n".join(figure_problems(mini))
    assert "a picture without alt text (mystnb: image: alt: ...), got ''" in found
    assert "a picture of 180000 bytes, allowed 150000" in found
    assert "2 pictures share one alt text" in found
    assert "<svg> in HTML output has neither aria-label nor alt" in found


# ---------------------------------------------------------------- the site
def test_the_small_book_renders_and_its_links_meet(mini):
    assert site.build(mini) == 0
    html = mini / "_build" / "html"
    register = (html / "book" / "claims.html").read_text(encoding="utf-8")
    chapter = (html / "notebooks" / f"{STEM}.html").read_text(encoding="utf-8")
    for name in ("claim-99-1-spread", "claim-99-2-pull"):
        assert f'id="{name}"' in register
        assert f'href="../notebooks/{STEM}.html#{name}"' in register
        assert f'id="{name}"' in chapter
        assert f'href="../book/claims.html#{name}"' in chapter
    assert "10.00 ± 0.15" in register
    assert '<div class="solution dropdown admonition"' in chapter
    assert r'<span class="sdelib-glued"><span class="math notranslate nohighlight">\(v = a^2 v + 1\)</span>.' in chapter
    assert external_hosts(html) == []
    page = html / "book" / "index.html"
    edit(page, "</body>", '<script src="https://example.org/a.js"></script></body>')
    assert external_hosts(html) == ["book/index.html: https://example.org/a.js"]


def test_dead_references_fail_the_build(mini, capfd):
    dead = "{eq}`eq-none` {numref}`fig-none` {cite:p}`nobody2000` [here](#nowhere) [9](claim:99.9-none) {ref}`none`"
    page = mini / "book" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{dead}\n", encoding="utf-8")
    assert site.build(mini) == 1
    said = "".join(capfd.readouterr())
    for fault in (
        "equation not found: eq-none",
        "fig-none",
        'could not find bibtex key "nobody2000"',
        "cross-reference target not found: 'nowhere'",
        "no notebook stores the claim '99.9-none'",
        "undefined label: 'none'",
    ):
        assert fault in said, fault
    assert "The book was not built" in said


def test_a_page_that_does_not_exist_is_named(mini, capsys):
    notebook(mini).unlink()
    assert site.build(mini) == 1
    assert f"names pages that do not exist: notebooks/{STEM}" in capsys.readouterr().out
