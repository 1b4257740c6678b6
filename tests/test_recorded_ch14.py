"""Chapter 14's ablation: the script runs, its record has the form that the chapter reads, and the committed one came from it."""

import json
from itertools import pairwise
from pathlib import Path

import ch14_ablation as script
import pytest
import torch

from sdelib import recorded

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "recorded" / "ch14_ablation.py"


pytestmark = pytest.mark.usefixtures("as_a_script")  # main() sets the number of threads


def test_a_quick_run_has_the_records_form(tmp_path, capsys):
    assert script.main(["--quick", "--where", str(tmp_path)]) == 0
    assert "wrote" in capsys.readouterr().out
    quick, kept = (
        recorded.read(script.NAME, where=tmp_path),
        recorded.read(script.NAME, where=ROOT / "book" / "recorded"),
    )
    for name, setting in quick.data.items():
        full = kept.data[name]
        assert setting["rows"].keys() == full["rows"].keys() == script.ROWS[name].keys()
        assert setting["sigma_max"] == full["sigma_max"]
        assert len(full["gaussian"]) == script.BANDS
        for row, entry in setting["rows"].items():
            other = full["rows"][row]
            assert entry["parameters"] == other["parameters"]
            assert [len(seed) for seed in entry["held_out"]] == [script.BANDS]
            assert [len(seed) for seed in other["held_out"]] == [script.BANDS] * len(script.SEEDS)
            assert all(0 < loss < 1.1 for seed in entry["held_out"] for loss in seed)  # 1: a network that says nothing
            steps = kept.manifest["config"]["train"]["steps"]
            assert [len(curve) for curve in other["curves"]] == [steps // 10] * len(script.SEEDS)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{script.NAME}.{end}" for end in ("json", "base.safetensors", "all.safetensors")
    }


def test_the_committed_record_is_this_scripts():
    kept = recorded.read(script.NAME, where=ROOT / "book" / "recorded")
    manifest, config = kept.manifest, kept.manifest["config"]
    assert manifest["script"] == str(SCRIPT.relative_to(ROOT))
    assert manifest["seeds"] == script.SEEDS
    assert config["train"] == json.loads(json.dumps(vars(script.RUN)))
    assert config["rows"] == json.loads(json.dumps(script.ROWS))
    assert config["base"] == json.loads(json.dumps(script.BASE))
    assert (config["batch"], config["t_min"], config["draws"]) == (script.BATCH, script.T_MIN, script.DRAWS)
    assert config["core_minutes"] < 20
    for row in script.KEPT:
        score = script.network(script.settings()["ve"], script.ROWS["ve"][row], 5)
        kept.load(score.net, row)


def test_times_fill_their_bands_evenly():
    setting = script.settings()["ve"]
    times, noises = script.common(setting, draws=1)
    edges = torch.linspace(script.T_MIN, 1.0, script.BANDS + 1)
    assert noises.shape == (script.BANDS, 300, 1, 8, 8)
    for band, (low, high) in zip(times, pairwise(edges.tolist()), strict=True):
        place = ((band - low) / (high - low) * 300).floor().long().clamp(0, 299)
        assert len(place.unique()) >= 297  # one in each of 300 cells, but for rounding at their edges


def test_the_yardstick_is_the_normal_laws_score():
    """The best linear score beside Gaussian.score_fn, and the loss of a law on its own samples beside the closed form."""
    setting = script.settings()["vp"]
    score = script.gaussian(setting)
    flat = setting.images.flatten(1).double()
    law = script.Gaussian(flat.mean(0), flat.T.cov() + 1e-6 * torch.eye(64, dtype=torch.float64))
    x, t = (
        torch.randn((5, 1, 8, 8), generator=torch.Generator().manual_seed(1)).double(),
        torch.linspace(0.1, 0.9, 5).double(),
    )
    expected = law.score_fn(setting.sde)(x.flatten(1), t).reshape(x.shape)
    torch.testing.assert_close(
        score(x, t), expected, rtol=1e-6, atol=1e-8
    )  # two routes in float64, conditioned by 1e-6


def test_quick_does_not_overwrite_the_record(capsys):
    with pytest.raises(SystemExit):
        script.main(["--quick"])
    assert "--quick needs --where" in capsys.readouterr().err
