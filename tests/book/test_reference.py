"""The pages at the back: the library name by name, the paper formula by formula, the glossary, the index."""

import copy
import importlib
import re
import sys

import pytest
import yaml

from tests.book.conftest import ROOT

sys.path.append(str(ROOT / "tools"))
paper_map = importlib.import_module("paper_map")
reference = importlib.import_module("reference")

pytestmark = pytest.mark.book


# ---------------------------------------------------------------- the library
def test_every_public_name_has_a_page_and_its_equation():
    assert reference.problems(ROOT) == []


def test_the_public_names_are_those_that_readers_import():
    names = reference.public_names()
    # the whole alphabet of the top level, and nothing private
    import sdelib

    assert {f"sdelib.{name}" for name in sdelib.__all__} <= names.keys()
    assert not [path for path in names if "._" in path]
    # a name that a module lifts from another goes by one path, under which it can be imported
    assert "sdelib.plot.color" in names
    assert "sdelib.palette.color" not in names
    for path, public in names.items():
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is public.thing


def test_every_way_to_write_a_name_leads_to_its_entry():
    known = reference.canonical_paths()
    assert known["sdelib.simulation.simulate"] == "sdelib.simulate"
    assert known["sdelib.sde.VP.perturb"] == known["sdelib.VP.perturb"] == "sdelib.Noising.perturb"
    assert known["sdelib.VP.std"] == "sdelib.VP.std"
    assert known["sdelib.GaussianMixture.at"] == known["sdelib.Gaussian.at"]


def test_a_name_without_a_page_is_noticed(tmp_path):
    pages = tmp_path / "book" / "api"
    pages.mkdir(parents=True)
    for page in (ROOT / "book" / "api").glob("*.md"):
        (pages / page.name).write_text(page.read_text(encoding="utf-8").replace("api-module:: sdelib.sde", "gone"))
    found = "\n".join(reference.problems(tmp_path))
    assert "sdelib.VE: no page under book/api describes sdelib.sde" in found
    assert "sdelib.chain" not in found


def test_an_entry_that_names_an_equation_must_show_it():
    assert reference.unshown("sdelib.x", "The rule (paper eq. 4).")
    assert not reference.unshown("sdelib.x", "The rule (paper eq. 4).\n\n.. math:: a = b")
    assert not reference.unshown("sdelib.x", 'Say where it comes from: ``"closed form, eq. 2"``.')


# ---------------------------------------------------------------- the paper
def test_every_entry_of_the_paper_map_leads_somewhere():
    assert paper_map.problems(ROOT, paper_map.load()) == []


def spoil(chosen, changes):
    """What is found once one entry is changed; ``None`` removes a key, and no changes remove the entry."""
    sections = copy.deepcopy(paper_map.load())
    for part in sections:
        for entry in list(part["entries"]):
            if entry["id"] == chosen:
                if not changes:
                    part["entries"].remove(entry)
                for key, value in changes.items():
                    if value is None:
                        del entry[key]
                    else:
                        entry[key] = value
    return "\n".join(paper_map.problems(ROOT, sections))


@pytest.mark.parametrize(
    "id, changes, said",
    [
        ("eq-5", {"book": ["eq-4-gone"]}, "eq-5: no page of the book has the label 'eq-4-gone'"),
        ("eq-7", {"code": ["dsn"]}, "eq-7: sdelib has no public 'dsn'"),
        ("eq-7", {"code": ["losses._check_points"]}, "eq-7: sdelib has no public"),
        ("eq-1", {"tests": ["test_losses.py::test_equation_99"]}, "eq-1: no test 'test_losses.py::test_equation_99'"),
        ("eq-1", {"tests": ["test_gone.py::test_equation_1"]}, "eq-1: no test 'test_gone.py::test_equation_1'"),
        ("eq-2", {"tests": None}, "eq-2: lacks 'tests'"),
        ("eq-4", {"says": " "}, "eq-4: lacks 'says'"),
        ("eq-9", {"book": [], "comes": 8}, "eq-9: section 3.4 is taught"),
        ("eq-13", {"comes": 3}, "eq-13: chapter 3 has come"),
        ("eq-10", {"pages": []}, "eq-10: unknown key 'pages'"),
        ("alg-4", {"id": "alg-5"}, "alg-5: twice in the map"),
        ("eq-12", {}, "eq-12: missing from the map"),
        ("kernels", {}, "kernels: missing from section B of the map"),
    ],
)
def test_planted_faults_of_the_paper_map_are_caught(id, changes, said):
    assert said in spoil(id, changes)


# ---------------------------------------------------------------- the glossary and the index
TERM = re.compile(r"^(?=\S)(?!```|:)(.+)\n {2}\S", re.MULTILINE)
# A word of a chapter still to come, and one that the reasons of the claims use, in the code.
FLAGGED = {"predictor", "standard error"}
# How the chapters say it, where that is not the entry's own wording.
SAID = {
    "alpha": r"\\alpha_i",
    "Bayes' rule": "Bayes",
    "beta": r"\\beta_i",
    "bias of a finite step": "bias",
    "eta": r"\\eta",
    "failure museum": "museum",
    "G1, GM1, GM2": "GM2",
    "importance sampling": "importance",
    "likelihood weighting": "likelihood",
    "noise prediction": "predict(s|ed|ing)? the noise",
    "Ornstein-Uhlenbeck process": "Ornstein",
    "t_min": r"t_\{?\\?min",
    "std": "std|standard deviation",
    "step size": r"step size|\\epsilon",
    "explicit score matching": "explicit",
    "finite-difference score matching": "finite.difference",
    "sliced score matching": "sliced",
    "signal-to-noise ratio": "signal-to-noise",
    "probability flow": "probability flow|the flow",
    "normaliser": "normalis",
    "responsibility": "votes?",
}


def terms():
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    body = text.partition("```{glossary}")[2].rpartition("```")[0]
    return TERM.findall(body)


def test_the_glossary_has_no_term_twice():
    found = [term.lower() for term in terms()]
    assert len(found) > 60
    assert sorted(found) == sorted(set(found))


def test_every_term_is_used_in_a_chapter():
    chapters = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "book").glob("ch*.md")))
    prose = re.sub(r"^```\{code-cell\}.*?^```$", "", chapters, flags=re.DOTALL | re.MULTILINE)
    unused = [
        term
        for term in terms()
        if term not in FLAGGED and not re.search(SAID.get(term, re.escape(term)), prose, re.IGNORECASE)
    ]
    assert unused == []
    assert set(terms()) >= FLAGGED


def test_every_term_names_its_chapter_or_is_a_plain_word():
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    known = paper_map.labels()
    assert set(re.findall(r"\]\(#(ch\d\d)\)", text)) <= known
    # whoever reads a chapter's word in the glossary gets to the chapter
    assert len(re.findall(r"\]\(#ch\d\d\)", text)) > 55


def test_the_pages_at_the_back_are_in_the_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    back = [entry["file"] for part in toc["parts"] for entry in part["chapters"] if part["caption"] == "At the back"]
    assert {"book/api/index", "book/paper_map", "book/glossary", "genindex"} <= set(back)
    (api,) = [e for part in toc["parts"] for e in part["chapters"] if e["file"] == "book/api/index"]
    listed = {entry["file"].rpartition("/")[2] for entry in api["sections"]}
    assert listed == {page.stem for page in (ROOT / "book" / "api").glob("*.md")} - {"index"}
