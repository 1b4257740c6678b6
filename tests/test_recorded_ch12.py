"""Chapter 12's networks: the script runs, its record has the form that the chapter reads, and the committed one came from it."""

import json
from itertools import combinations

import ch12_codes
import pytest
import torch

from sdelib import VP, Gaussian, data, flow, net_score, recorded
from sdelib.models import ddpmpp

NETWORKS = ["unet 1", "unet 2", "patches 1", "patches 2"]


pytestmark = pytest.mark.usefixtures("as_a_script")  # main() sets the number of threads


def scores(record):
    first = recorded.read("digits_nets")
    nets = {"unet 1": first.load(ddpmpp(**first.data["vp"]["net"]), "vp")}
    for name in ch12_codes.SEEDS:
        score = ch12_codes.network(name.split()[0])
        nets[name] = record.load(score.net, name.replace(" ", "_"))
    return {name: net_score(net, VP()).eval() for name, net in nets.items()}


def test_a_quick_run_has_the_records_form(tmp_path):
    assert ch12_codes.main(["--quick", "--where", str(tmp_path)]) == 0
    quick, kept = recorded.read("ch12_codes", where=tmp_path), recorded.read("ch12_codes")
    assert set(scores(quick)) == set(NETWORKS)
    assert quick.data.keys() == kept.data.keys()
    assert set(quick.data["pairs"]) == set(kept.data["pairs"]) == {f"{a}, {b}" for a, b in combinations(NETWORKS, 2)}
    for key, pair in kept.data["pairs"].items():
        assert pair.keys() == quick.data["pairs"][key].keys()
        assert len(pair["by_pixel"]) == len(pair["by_axis"]) == 64
        assert len(pair["scores"]) == len(ch12_codes.TIMES)
        assert len(pair["read"]) == ch12_codes.FIRST
    for name in ("unet 2", "patches 1"):  # one of each architecture is followed
        steps = [row["step"] for row in kept.data["course"][name]]
        assert steps == [*ch12_codes.KEPT, ch12_codes.STEPS[name.split()[0]]]


def test_the_committed_record_is_this_scripts():
    manifest = recorded.read("ch12_codes").manifest
    config = manifest["config"]
    assert manifest["script"] == "tools/recorded/ch12_codes.py"
    assert not manifest["commit"].endswith("+changes")
    assert manifest["seeds"] == [*ch12_codes.SEEDS.values(), 124, 125, 126]
    assert config["train"] == json.loads(json.dumps(vars(ch12_codes.RUN)))
    assert (config["steps"], config["t_min"], config["tolerance"]) == (
        ch12_codes.STEPS,
        ch12_codes.T_MIN,
        ch12_codes.TOLERANCE,
    )
    assert config["core_minutes"] < 20


def test_the_committed_networks_write_alike():
    """Twelve digits: codes of two architectures agree, those of different digits do not, and the record says how much."""
    record = recorded.read("ch12_codes")
    nets, x = scores(record), ch12_codes.slightly_noisy()[:12]
    one, other = (ch12_codes.encode(nets[name], x) for name in ("unet 1", "patches 1"))
    agreed = ch12_codes.correlation(one, other)
    # twelve digits scatter by 0.01, seven times what 300 do
    assert agreed == pytest.approx(record.data["pairs"]["unet 1, patches 1"]["all"]["correlation"], abs=0.05)
    assert abs(ch12_codes.correlation(one, other.roll(1, 0))) < 0.25  # twelve codes of 64 correlated numbers


def test_the_normal_code_is_the_flow_of_the_normal_law():
    """The affine map in closed form against dopri5 on the exact score, in double precision."""
    flat = data.digits(data_range=(-1, 1), split="train").images.flatten(1).double()
    twin, x = Gaussian(flat.mean(0), torch.cov(flat.T)), ch12_codes.slightly_noisy()[:5].double()
    z = flow(VP(), twin.score_fn(VP()), x.flatten(1), ch12_codes.T_MIN, 1.0, rtol=1e-8, atol=1e-8).x
    # fifty and more steps of at most 1e-8 each, in units of the widest code
    assert torch.allclose(ch12_codes.normal_codes(x).flatten(1), z, atol=2e-5)


def test_correlations_by_hand():
    g = torch.Generator().manual_seed(0)
    a = torch.randn((200, 1, 8, 8), generator=g)
    assert ch12_codes.correlation(a, 3 * a + 1) == pytest.approx(1.0, abs=1e-6)  # float32 in, double inside
    b = 0.6 * a + 0.8 * torch.randn(a.shape, generator=g)
    assert ch12_codes.correlation(a, b) == pytest.approx(0.6, abs=0.03)  # four errors of 0.64 / √12,800
    # the bootstrap's own error over 200 draws is 5 %; the closed form is (1 - r²) / √n
    assert ch12_codes.scatter(a, b) == pytest.approx((1 - 0.36) / 200**0.5 / 8, rel=0.35)
    assert ch12_codes.by_coordinate(a, -a) == pytest.approx([-1.0] * 64)
