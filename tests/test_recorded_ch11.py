"""The scripts behind chapter 11's records run, write the form that the chapter reads, and the committed records are theirs."""

import math
from dataclasses import asdict

import ch11_bound
import ch11_digits
import ch11_likelihood
import pytest

from sdelib import recorded

pytestmark = pytest.mark.usefixtures("as_a_script")  # main() sets the number of threads


def as_stored(cfg):
    return asdict(cfg) | {"betas": list(cfg.betas)}


def test_networks_are_trained_and_stored(tmp_path):
    ch11_digits.main(["--quick", "--where", str(tmp_path)])
    made, committed = recorded.read("ch11_digits", where=tmp_path), recorded.read("ch11_digits")
    assert set(made.data) == set(committed.data) == set(ch11_digits.NETS)
    for key, about in made.data.items():
        made.load(ch11_digits.architecture(about)(**about["net"]), key)
        assert {k: v for k, v in about.items() if k != "loss"} == {
            k: v for k, v in committed.data[key].items() if k != "loss"
        }


def test_likelihoods_are_judged(tmp_path):
    ch11_likelihood.main(["--quick", "--where", str(tmp_path)])
    made = recorded.read("ch11_likelihood", where=tmp_path).data
    assert set(made["cells"]["rows"]) == set(ch11_likelihood.ROWS)
    assert set(made["digits"]) == {*ch11_digits.NETS, "integers"}
    assert all(len(told["bits"]) == 3 and told["nfe"] > 0 for told in made["digits"].values())


def test_bounds_add_up(tmp_path):
    """Prior, terms and decoder are the total, for every level to begin at; the fine levels' 12 bits are taken off both."""
    ch11_bound.main(["--quick", "--where", str(tmp_path)])
    for kinds in recorded.read("ch11_bound", where=tmp_path).data.values():
        for told in kinds.values():
            for first, begun in told["begins"].items():
                total = told["prior"] + sum(told["terms"][int(first) :]) + begun["decoder"]
                assert sum(begun["total"]) / 2 == pytest.approx(total, rel=1e-5, abs=1e-5)  # float32 sums


def test_the_committed_tables_are_the_scripts():
    digits, cells, bound = (recorded.read(f"ch11_{name}") for name in ("digits", "likelihood", "bound"))
    for record, name in ((digits, "digits"), (cells, "likelihood"), (bound, "bound")):
        assert record.manifest["script"] == f"tools/recorded/ch11_{name}.py"
        assert not record.manifest["commit"].endswith("+changes")
    assert digits.manifest["config"]["train"] == as_stored(ch11_digits.RUN)
    assert digits.manifest["seeds"] == [seed for _, _, seed in ch11_digits.NETS.values()]
    assert cells.manifest["config"]["train"] == as_stored(ch11_likelihood.RUN)
    assert cells.manifest["config"]["mlp"] == ch11_likelihood.MLP_SIZE
    assert all(len(runs) == len(ch11_likelihood.SEEDS) for runs in cells.data["cells"]["rows"].values())
    assert all(len(told["bits"]) == 300 for told in cells.data["digits"].values())
    assert bound.manifest["config"]["levels"] == ch11_bound.N
    assert all(len(kinds["integers"]["terms"]) == ch11_bound.N - 1 for kinds in bound.data.values())


def test_the_entropy_of_the_cells():
    table = ch11_likelihood.cells()
    assert float(table.sum()) == pytest.approx(1.0, abs=1e-12)
    stored = recorded.read("ch11_likelihood").data["cells"]["entropy"]
    assert float(-(table * table.log2()).sum()) / 2 == pytest.approx(stored, abs=1e-7)  # stored to 8 digits
    assert 0 < stored < math.log2(ch11_likelihood.SIDE)


def test_no_figure_lies_below_what_is_possible():
    """On cells nothing is below the entropy by more than four standard errors; on digits nothing is above blind guessing."""
    record = recorded.read("ch11_likelihood").data
    for runs in record["cells"]["rows"].values():
        assert all(run["excess"] > -4 * run["stderr"] for run in runs)
    for told in record["digits"].values():
        assert 0 < sum(told["bits"]) / len(told["bits"]) < math.log2(ch11_digits.LEVELS)
