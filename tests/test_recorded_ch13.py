"""The script behind chapter 13's record runs, writes the form that the chapter reads, and the committed record is its own."""

import ch13_control
import pytest
import torch

from sdelib import VP, data, net_logits, net_score, recorded
from sdelib.models import Classifier, ddpmpp

WAYS = {"replacement", "corrected", "resampled", "guided", "y(t)", "mixture"}


pytestmark = pytest.mark.usefixtures("as_a_script")  # main() sets the number of threads


def forms(record):
    assert set(record["questions"]) == {"lower half", "means"}
    assert all(set(table) == WAYS for table in record["questions"].values())
    assert set(record["painter"]["shown"]) == set(ch13_control.masks())
    assert set(record["colour"]) == {"replacement", "resampled", "labels", "draws"}
    assert record["classes"]["weights"] == ch13_control.WEIGHTS


def test_everything_is_made(tmp_path):
    ch13_control.main(["--quick", "--where", str(tmp_path)])
    forms(recorded.read("ch13_control", where=tmp_path).data)


def test_the_committed_record_is_the_scripts():
    record = recorded.read("ch13_control")
    forms(record.data)
    assert record.manifest["script"] == "tools/recorded/ch13_control.py"
    assert not record.manifest["commit"].endswith("+changes")
    assert record.manifest["config"]["plan"] == ch13_control.FULL._asdict()
    assert record.manifest["seeds"] == list(ch13_control.SEEDS.values())
    # the four weights share their noise; what constraint-driven ways know is kept to float32 rounding
    for way in ("replacement", "corrected", "resampled"):
        for table in record.data["questions"].values():
            assert table[way]["off"] < 1e-5


def test_the_committed_classifier_reads_noisy_digits():
    record = recorded.read("ch13_control")
    net = record.load(Classifier(**record.data["classifier"]["net"]), "classifier")
    unseen = data.digits(data_range=(-1.0, 1.0), split="test")
    found = ch13_control.at_times(net_logits(net, VP()).eval(), *unseen, noises=4)
    for key, values in found.items():
        # other processors round convolutions otherwise
        assert values == pytest.approx(record.data["classifier"]["test"][key], abs=2e-3)
    assert found["right"][0] > 0.97


def test_the_committed_tints_are_the_laws():
    """The network's own denoising of a tinted digit, at little noise, keeps ink and tint."""
    record = recorded.read("ch13_control")
    net = record.load(ddpmpp(**record.data["tinted"]["net"]), "tinted")
    score, vp, g = net_score(net, VP()).eval(), VP(), torch.Generator().manual_seed(0)
    unseen = data.digits(split="test")
    x0 = ch13_control.tinted(unseen.images, ch13_control.hues(unseen.labels, g))
    t = torch.full((len(x0),), 0.05)
    with torch.no_grad():
        x = vp.perturb(x0, t, torch.randn(x0.shape, generator=g))
        guess = (x + vp.std(t)[:, None, None, None] ** 2 * score(x, t)) / vp.scale(t)[:, None, None, None]
    assert float((guess - x0).square().mean()) < 0.5 * float(
        (x / vp.scale(t)[:, None, None, None] - x0).square().mean()
    )


def test_a_tint_is_read_as_it_was_written():
    """Hue and saturation come back to rounding, and grey does not depend on the tint."""
    ink = data.digits(split="test").images[:6]
    hue = torch.tensor([1.0, 30.0, 120.0, 210.0, 300.0, 359.0])
    x = ch13_control.tinted(ink, hue)
    found, saturation = ch13_control.read_tint(x, ink)
    assert torch.allclose(found, hue, atol=1e-2)  # degrees, of float32 sums of 64 pixels
    assert torch.allclose(saturation, torch.ones(6), atol=1e-5)
    assert torch.allclose(x.mean(1, keepdim=True), 1 - 2 * ch13_control.INK * ink, atol=1e-6)


def test_a_basis_of_blocks():
    """Orthonormal, and its first sixteen coordinates are twice the blocks' means."""
    B = ch13_control.block_basis()
    assert torch.allclose(B @ B.T, torch.eye(64), atol=1e-6)
    x = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    means = torch.nn.functional.avg_pool2d(x, 2).flatten(1)
    assert torch.allclose(x.flatten(1) @ B[:16].T, 2 * means, atol=1e-5)


def test_worth_of_honest_draws():
    """Draws from the truth's own law: error over promise is 1, and the energy score is half of two draws' mean distance."""

    class Nobody:
        def predict(self, x):
            return x[:, 0] * 0

    g = torch.Generator().manual_seed(2)
    truth, draws = torch.randn((4000, 1, 1, 2), generator=g), torch.randn((4000, 6, 1, 1, 2), generator=g)
    found = ch13_control.worth(draws, truth, torch.zeros(4000), Nobody())
    assert found["error_over_promise"] == pytest.approx(1.0, abs=0.05)  # three standard errors of 8,000 squares
    # two normal points of the plane are sqrt(pi) apart on average; halved for [0, 1]
    assert found["energy_score"] == pytest.approx(torch.pi**0.5 / 4, abs=4 * found["energy_score_error"])
