"""The chapters' exercises as they are stored, and faults planted in the small book's."""

import json
import re

import jupytext
import pytest

from sdelib.exercises import graders
from tests.book.conftest import ROOT, STEM, edit
from tests.book.exercise_checks import exercise_problems, labels
from tools import execute, pairs

pytestmark = pytest.mark.book
CHAPTERS = pairs.chapters(ROOT)


def number(stem: str) -> int:
    return int(re.match(r"ch(\d+)", stem)[1])


# ---------------------------------------------------------------- the chapters
@pytest.mark.parametrize("stem", CHAPTERS)
def test_stubs_are_open_and_solutions_right(stem):
    assert exercise_problems(ROOT, stem) == []


@pytest.mark.parametrize("stem", CHAPTERS)
def test_every_exercise_has_a_grader_and_every_grader_an_exercise(stem):
    assert sorted(labels(ROOT, stem)) == sorted(graders(number(stem)))


@pytest.mark.parametrize("stem", CHAPTERS)
def test_a_chapter_has_three_or_four_exercises(stem):
    assert len(labels(ROOT, stem)) in (3, 4)


def test_every_file_of_graders_belongs_to_a_chapter():
    files = {p.stem for p in (ROOT / "sdelib" / "exercises").glob("ch*.py")}
    assert files <= {stem.split("_")[0] for stem in CHAPTERS}


# ---------------------------------------------------------------- planted faults
def test_the_small_book_has_its_exercise_in_order(mini):
    assert labels(mini, STEM) == ["ex-99-pull"]
    assert exercise_problems(mini, STEM) == []


def spoilt(root, old: str, new: str) -> str:
    """Change the text, run it, and return what is found."""
    edit(root / "book" / f"{STEM}.md", old, new)
    assert execute.main(["--root", str(root)]) == 0
    return "\n".join(exercise_problems(root, STEM))


SOLUTION = "    return 1 / (1 - a**2)\n\ncheck"


@pytest.mark.parametrize(
    "old, new, said",
    [
        (SOLUTION, "    return 1 / (1 - a)\n\ncheck", "the solution of ex-99-pull is wrong"),
        (SOLUTION, "    return ...\n\ncheck", "the solution of ex-99-pull is open"),
        ("    return ...  # your line\n", "    return 1 / (1 - a**2)\n", "the stub of ex-99-pull is right"),
        ('line\n\ncheck("ex-99-pull", resting_variance)', "line", "stores ['right'] where an open"),
        ("{admonition} Hint", "{admonition} Thought", "ex-99-pull has no hint"),
        ("\n+++\n", "\n", "text of a solution stands in its last cell"),
    ],
)  # fmt: skip
def test_a_fault_in_an_exercise_is_found(mini, old, new, said):
    assert said in spoilt(mini, old, new)


def test_a_notebook_that_spoils_its_exercises_is_found(mini):
    path = mini / "notebooks" / f"{STEM}.ipynb"
    stored = json.loads(path.read_text(encoding="utf-8"))
    folded = [cell for cell in stored["cells"] if cell["metadata"].pop("jupyter", None)]
    assert len(folded) >= 5, "two hidden cells, three of the solution's code, one of its text"
    del stored["metadata"]["jupytext"]["cell_metadata_filter"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    said = exercise_problems(mini, STEM)
    assert len(said) == len(folded) + 1
    assert "needs `cell_metadata_filter" in said[0]


# ---------------------------------------------------------------- what executing does about them
def test_folds_stay_out_of_the_text(mini):
    notebook = jupytext.read(mini / "notebooks" / f"{STEM}.ipynb")
    assert any("jupyter" in cell.metadata for cell in notebook.cells)
    written = jupytext.writes(notebook, fmt="md:myst")
    assert written == jupytext.writes(pairs.read_text(mini / "book" / f"{STEM}.md"), fmt="md:myst")
    assert "source_hidden" not in written


def test_graders_of_other_chapters_leave_a_chapter_unchanged(mini, capsys):
    (mini / "sdelib" / "exercises" / "ch98.py").write_text("x = 1\n")
    assert execute.main(["--root", str(mini)]) == 0
    assert "unchanged" in capsys.readouterr().out
    own = mini / "sdelib" / "exercises" / "ch99.py"
    own.write_text(own.read_text().replace("(0.5, 0.9)", "(0.5, 0.8)"))
    assert execute.stamp(mini, STEM)["library"] != execute.stored_stamp(mini / "notebooks" / f"{STEM}.ipynb")["library"]


def test_new_words_keep_the_outputs_as_running_would(mini, capsys):
    edit(mini / "book" / f"{STEM}.md", "suggests a square root. The reason", "suggests a root. The reason")
    edit(mini / "book" / f"{STEM}.md", "Forty walks (dots joined)", "Forty walks (joined dots)")
    assert execute.main(["--root", str(mini)]) == 0
    assert "only words changed, outputs kept" in capsys.readouterr().out
    kept = (mini / "notebooks" / f"{STEM}.ipynb").read_bytes()
    assert execute.main(["--force", "--root", str(mini)]) == 0
    assert (mini / "notebooks" / f"{STEM}.ipynb").read_bytes() == kept


def test_new_code_is_run(mini, capsys):
    edit(mini / "book" / f"{STEM}.md", "walks = steps.cumsum(axis=1)", "walks = np.cumsum(steps, axis=1)")
    assert execute.main(["--root", str(mini)]) == 0
    assert "ran" in capsys.readouterr().out
