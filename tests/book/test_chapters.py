"""The chapters as they are stored: pairs, stamps, claims, pictures."""

import pytest

from tests.book.checks import figure_problems
from tests.book.conftest import ROOT
from tools import claims, execute, pairs

pytestmark = pytest.mark.book


def test_text_and_notebook_of_each_chapter_agree():
    assert pairs.check(ROOT) == []


@pytest.mark.parametrize("stem", pairs.chapters(ROOT))
def test_stored_notebook_was_made_from_the_present_text(stem):
    # the library may move on without changing a result (nbval judges that), the text may not
    stored = execute.stored_stamp(ROOT / "notebooks" / f"{stem}.ipynb")
    assert stored, f"{stem} has no stamp: python tools/execute.py {stem}"
    now = execute.stamp(ROOT, stem)
    assert (stored["text"], stored["inputs"]) == (now["text"], now["inputs"]), f"python tools/execute.py {stem}"


def test_every_claim_holds_and_every_linked_number_agrees():
    assert claims.check(ROOT) == []


def test_every_chapter_makes_claims():
    assert {s.stem for s in claims.collect(ROOT)[0]} == set(pairs.chapters(ROOT))


def test_every_picture_has_words_and_is_small_enough():
    assert figure_problems(ROOT) == []


def test_titles_leave_the_number_to_the_page():
    for stem, notebook in claims.notebooks(ROOT):
        assert not claims.title(notebook, stem)[0].isdigit(), (
            f"{stem}: the page puts the number before the title itself"
        )
