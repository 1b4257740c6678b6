"""The scripts behind chapter 9's records run, write the form that the chapter reads, and the committed records are theirs."""

import ch09_digits
import digits_nets
import pytest
import torch

from sdelib import VE, VP, data, net_score, recorded
from sdelib.models import ddpmpp, ncsnpp

CELLS = {f"{p} {c}" for p in ("ancestral", "reverse", "flow") for c in ("P", "P2", "PC")} | {"C2"}


pytestmark = pytest.mark.usefixtures("as_a_script")  # main() sets the number of threads


def scores(record):
    ve = VE(sigma_max=record.data["ve"]["sigma_max"])
    return {
        "ve": (ve, net_score(record.load(ncsnpp(**record.data["ve"]["net"]), "ve"), ve).eval()),
        "vp": (VP(), net_score(record.load(ddpmpp(**record.data["vp"]["net"]), "vp"), VP()).eval()),
    }


def test_networks_are_trained_and_stored(tmp_path):
    digits_nets.main(["--quick", "--where", str(tmp_path)])
    made = recorded.read("digits_nets", where=tmp_path)
    assert set(scores(made)) == {"ve", "vp"}
    assert set(made.data["ve"]) == set(recorded.read("digits_nets").data["ve"])


def test_the_committed_networks_have_learned():
    """Their loss on unseen digits is the recorded one, and below that of the best score that is linear in x and white."""
    record = recorded.read("digits_nets")
    assert record.manifest["script"] == "tools/recorded/digits_nets.py"
    assert not record.manifest["commit"].endswith("+changes")
    assert record.manifest["config"]["train"] == vars(digits_nets.RUN) | {"betas": [0.9, 0.999]}
    for key, (noising, score) in scores(record).items():
        low, high = record.data[key]["data_range"]
        images = data.digits(data_range=(low, high), split="test").images
        found = digits_nets.held_out(noising, score, images)
        # other processors round convolutions otherwise, 1e-6 of the loss here
        assert found == pytest.approx(record.data[key]["held_out"]["loss"], rel=1e-3)
        for t, loss in zip(digits_nets.LOOKED_AT, found, strict=True):
            signal = float(noising.scale(torch.tensor(t))) ** 2 * float(images.var())
            if t <= 0.5:
                assert loss < signal / (signal + float(noising.std(torch.tensor(t))) ** 2)


def test_the_table_is_made(tmp_path):
    ch09_digits.main(["--quick", "--where", str(tmp_path)])
    made = recorded.read("ch09_digits", where=tmp_path).data
    for key in ("ve", "vp"):
        assert set(made[key]["cells"]) == CELLS
        for cell, found in made[key]["cells"].items():
            assert len(found["frechet"]) == len(found["energy"]) == 2
            assert found["nfe"] == (
                3 if cell.endswith(" P") else 6
            )  # counted by simulate, two calls a step with a corrector


def test_the_committed_table_is_the_scripts():
    record = recorded.read("ch09_digits")
    assert record.manifest["script"] == "tools/recorded/ch09_digits.py"
    assert not record.manifest["commit"].endswith("+changes")
    assert record.manifest["config"]["N"] == ch09_digits.N
    assert record.manifest["config"]["pictures"] == ch09_digits.PICTURES
    assert record.manifest["seeds"] == [*ch09_digits.SEEDS, ch09_digits.TUNING_SEED]
    for key in ("ve", "vp"):
        assert set(record.data[key]["cells"]) == CELLS
        assert record.data[key]["ratios"] == ch09_digits.RATIOS
        for found in record.data[key]["cells"].values():
            assert len(found["frechet"]) == len(ch09_digits.SEEDS)


def test_frechet_distance_of_normal_laws():
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2), for diagonal covariances the squared differences of the standard deviations."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn((200_000, 1, 1, 2), generator=g, dtype=torch.float64)
    y = torch.randn((200_000, 1, 1, 2), generator=g, dtype=torch.float64) * torch.tensor([2.0, 0.5]) + 1.0
    # four standard errors: 0.02 of means and standard deviations that err by 1/sqrt(200,000) times their size
    assert ch09_digits.frechet(x, y) == pytest.approx(2 + 1 + 0.25, abs=0.03)
    assert ch09_digits.frechet(x, x) == pytest.approx(0.0, abs=1e-9)
