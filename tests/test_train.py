"""Training against a problem whose optimum is known in closed form, and the promises of the loop."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from sdelib import VE, VP, NetScore, data, dsm, net_score
from sdelib.models import MLP
from sdelib.train import PAPER, POINTS, TrainConfig, TrainingDiverged, new_state, train

M, S = 0.5, 0.5  # G1 = N(0.5, 0.25)
CFG = TrainConfig(steps=40, lr=1e-2, warmup=10, ema_decay=0.9, log_every=10)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower with several threads, and much slower when tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Line(nn.Module):
    """w x + c: at one noise level, all that the score of a Gaussian is."""

    def __init__(self, w=0.0, c=0.0):
        super().__init__()
        self.w, self.c = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(c))

    def forward(self, x, label):
        return self.w * x + self.c


def line_score():
    one = lambda t: torch.ones_like(t)
    return NetScore(Line(), label=one, out=one)


def at_time(sde, time):
    def loss(score, x0, generator):
        return dsm(sde, score, x0, t=torch.full((len(x0),), time), generator=generator)

    return loss


# --- the optimum ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde, time", [(VP(), 0.3), (VE(), 0.7)])
def test_training_finds_the_closed_form_score_and_the_loss_floor(sde, time):
    """For N(m, s^2) data at one time the score is -(x - scale m)/v with v = scale^2 s^2 + std^2.

    The variance-weighted loss of the exact score is std^2 (1/std^2 - 1/v) = scale^2 s^2 / v: not 0, whatever the net.
    """
    t = torch.tensor(time)
    scale, std = float(sde.scale(t)), float(sde.std(t))
    v = scale**2 * S**2 + std**2
    cfg = TrainConfig(steps=1500, lr=0.05, warmup=50, ema_decay=0.99, log_every=500)
    state = new_state(line_score(), cfg, generator=gen(1))
    list(train(state, at_time(sde, time), data.batches(data.g1(), 512, generator=gen(2)), cfg))
    with state.ema.swapped(state.net):
        w, c = (p.item() for p in state.net.parameters())
        held_out = at_time(sde, time)(state.net, data.g1().sample(200_000, generator=gen(3)), gen(4)).detach()
    # What is left is Adam's wandering, averaged over 100 steps; measured: 0.1 % in w and 0.8 % in c.
    assert w == pytest.approx(-1 / v, rel=0.01)
    assert c == pytest.approx(scale * M / v, rel=0.02)
    floor = scale**2 * S**2 / v
    # Errors that large cost below 0.0003 (the excess of the test below); the rest is four standard errors of the mean.
    margin = 0.0003 + 4 * float(held_out.std()) / math.sqrt(len(held_out))
    assert float(held_out.mean()) == pytest.approx(floor, abs=margin)


def test_no_line_beats_the_floor():
    """The excess of slope w and offset c is exactly std^2 E|score - exact|^2: the floor is the minimum, not a guess."""
    sde, time, n = VP(), 0.3, 400_000
    t = torch.tensor(time)
    scale, std = float(sde.scale(t)), float(sde.std(t))
    v = scale**2 * S**2 + std**2
    x0, noise = data.g1().sample(n, generator=gen(3)), torch.randn(n, 1, generator=gen(4))
    for dw, dc in ((0.3, 0.0), (0.0, -0.4), (-0.2, 0.2)):
        net = Line(-1 / v + dw, scale * M / v + dc)
        score = NetScore(net, label=torch.ones_like, out=torch.ones_like)
        got = dsm(sde, score, x0, t=torch.full((n,), time), noise=noise).detach()
        excess = std**2 * (dw**2 * v + (dw * scale * M + dc) ** 2)
        error = 4 * float(got.std()) / math.sqrt(n)
        assert float(got.mean()) == pytest.approx(scale**2 * S**2 / v + excess, abs=error)
        assert excess > error  # so the comparison can tell


def test_a_small_network_learns_the_mixtures_score():
    """600 steps on GM2: the error, weighted by std^2, below 3 % of the score's own size (measured: 1.1 and 1.2 %)."""
    law, sde, cfg = data.gm2(), VP(), replace(POINTS, steps=600)
    state = new_state(net_score(MLP(2, hidden=64, generator=gen(1)), sde), cfg, generator=gen(2))
    loss = lambda score, x0, generator: dsm(sde, score, x0, t_min=1e-3, generator=generator)
    list(train(state, loss, data.batches(law, 256, generator=gen(3)), cfg))
    x0, noise = law.sample(20_000, generator=gen(4)), torch.randn(20_000, 2, generator=gen(5))
    t = sde.sample_time(20_000, t_min=1e-3, generator=gen(6))
    x, std = sde.perturb(x0, t, noise), sde.std(t)[:, None]
    exact = law.score_fn(sde)(x, t)
    with state.ema.swapped(state.net), torch.no_grad():
        error = ((std * (state.net(x, t) - exact)) ** 2).sum(1).mean()
    assert float(error / ((std * exact) ** 2).sum(1).mean()) < 0.03


# --- one step, by hand ------------------------------------------------------------------------------------------


def test_one_step_is_clipped_adam_under_the_warm_up():
    """Adam's first step is lr g/(|g| + eps): with the clip at 1 and eps made large, both show."""
    target = torch.tensor([[30.0], [50.0]])
    cfg = TrainConfig(steps=1, lr=0.1, warmup=4, adam_eps=0.5, grad_clip=1.0, ema_decay=0.9, log_every=1)
    state = new_state(line_score(), cfg)
    loss = lambda net, batch, g: ((net(torch.ones_like(batch), torch.ones(len(batch))) - batch) ** 2).sum(1)
    (m,) = train(state, loss, [target], cfg)
    gradient = -2 * 40.0  # mean of 2 (w + c - y), the same for w and c
    norm = math.hypot(gradient, gradient)
    clipped = gradient / norm
    moved = -0.1 / 4 * clipped / (abs(clipped) + 0.5)
    # clip_grad divides by norm + 1e-6; float32
    assert [p.item() for p in state.net.parameters()] == pytest.approx([moved, moved], rel=1e-5)
    assert m == pytest.approx((1, (900 + 2500) / 2, norm, 0.1 / 4), rel=1e-6)
    assert state.ema.average["net.w"].item() == pytest.approx(moved * 9 / 11, rel=1e-6)  # d_1 = 2/11


def test_no_clipping_when_told_so():
    cfg = TrainConfig(steps=1, lr=0.1, warmup=0, adam_eps=0.5, grad_clip=None)
    state = new_state(line_score(), cfg)
    (m,) = train(state, lambda net, b, g: net(torch.ones_like(b), b[:, 0])[:, 0] * 4, [torch.ones(2, 1)], cfg)
    assert state.net.net.w.item() == pytest.approx(-0.1 * 4 / 4.5, rel=1e-6)
    assert m.grad_norm == pytest.approx(math.hypot(4, 4), rel=1e-6)


def test_learning_rate_rises_linearly():
    assert [replace(CFG, warmup=4, lr=1.0).lr_at(k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert replace(CFG, warmup=0, lr=1.0).lr_at(0) == 1.0
    assert (PAPER.lr, PAPER.warmup, PAPER.betas, PAPER.adam_eps, PAPER.grad_clip) == (
        2e-4,
        5000,
        (0.9, 0.999),
        1e-8,
        1.0,
    )


# --- the loop ---------------------------------------------------------------------------------------------------


def run(cfg, steps=None, state=None, loader=None):
    state = state or new_state(net_score(MLP(2, hidden=16, generator=gen(1)), VP()), cfg, generator=gen(2))
    loader = loader or data.batches(data.gm2(), 32, generator=gen(3))
    loss = lambda score, x0, generator: dsm(VP(), score, x0, generator=generator)
    return state, loader, list(train(state, loss, loader, cfg if steps is None else replace(cfg, steps=steps)))


def bits(state):
    adam = [v for s in state.optimiser.state_dict()["state"].values() for v in s.values()]
    return (
        [p.detach().clone() for p in state.net.parameters()] + list(state.ema.state_dict()["average"].values()) + adam
    )


@pytest.mark.usefixtures("untouched")
def test_same_seed_same_bits():
    one, two = run(CFG), run(CFG)
    assert one[2] == two[2]
    assert all(torch.equal(a, b) for a, b in zip(bits(one[0]), bits(two[0]), strict=True))


def test_stopping_and_going_on_changes_no_bit():
    whole, _, history = run(CFG)
    part, loader, first = run(CFG, steps=20)
    part, _, second = run(CFG, state=part, loader=loader)
    assert first + second == history
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(part), strict=True))


def test_metrics_come_when_they_should_and_mean_what_they_say():
    cfg = replace(CFG, steps=25)
    _, _, each = run(replace(cfg, log_every=1))
    _, _, some = run(cfg)
    assert [m.step for m in each] == list(range(1, 26))
    assert [m.step for m in some] == [10, 20, 25]
    for m, (low, high) in zip(some, ((0, 10), (10, 20), (20, 25)), strict=True):
        assert m.loss == pytest.approx(sum(e.loss for e in each[low:high]) / (high - low), rel=1e-12)
        assert (m.grad_norm, m.lr) == (each[high - 1].grad_norm, each[high - 1].lr)


def test_nothing_happens_before_it_is_asked():
    state = new_state(line_score(), CFG)
    train(state, at_time(VP(), 0.3), data.batches(data.g1(), 8), CFG)
    assert state.step == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_leaves_the_state_alone(value):
    state, loader, _ = run(CFG, steps=20)
    before, where = bits(state), state.generator.get_state()

    def loss(score, x0, generator):
        good = dsm(VP(), score, x0, generator=generator)
        return good if state.step < 23 else good * value

    before = None
    with pytest.raises(TrainingDiverged, match="step 23: the loss is (nan|inf); the state is as it was") as error:
        for _ in train(state, loss, loader, replace(CFG, log_every=1)):
            before, where = bits(state), state.generator.get_state()
    assert error.value.step == state.step == 23
    assert state.ema.updates == 23
    assert all(torch.equal(a, b) for a, b in zip(bits(state), before, strict=True))
    assert torch.equal(state.generator.get_state(), where)
    run(CFG, state=state, loader=loader)  # and it can go on
    assert state.step == 40


def test_a_gradient_that_is_not_finite_stops_too():
    state = new_state(line_score(), CFG)
    loss = lambda net, b, g: torch.sqrt(net(b, b[:, 0])[:, 0] * 0)  # 0 with an infinite slope times 0
    with pytest.raises(TrainingDiverged, match="step 0: the gradient's norm is nan"):
        list(train(state, loss, [torch.ones(3, 1)], CFG))
    assert [p.item() for p in state.net.parameters()] == [0.0, 0.0]
    assert all(p.grad is None for p in state.net.parameters())


def test_bad_input_is_refused():
    for field, value in (("steps", -1), ("steps", 1.5), ("lr", 0.0), ("warmup", -1), ("log_every", 0),
                         ("grad_clip", 0.0), ("ema_decay", 1.0), ("betas", (0.9, 1.0)), ("adam_eps", 0.0)):  # fmt: skip
        with pytest.raises(ValueError, match=f"{field}: needs"):
            replace(CFG, **{field: value})
    with pytest.raises(FrozenInstanceError):
        CFG.lr = 1.0
    with pytest.raises(ValueError, match="net: needs parameters to train, Identity has none"):
        new_state(nn.Identity(), CFG)
    state = new_state(line_score(), CFG)
    with pytest.raises(ValueError, match="loader: ended after step 2, needs batches for 40 steps"):
        list(train(state, at_time(VP(), 0.3), [torch.ones(4, 1)] * 2, CFG))
    with pytest.raises(ValueError, match=r"loss: needs one number an item, shape \(batch,\), got \(\)"):
        list(train(state, lambda net, b, g: net(b, b[:, 0]).mean(), [torch.ones(4, 1)], CFG))
