"""The one loop: which steps it takes, what it keeps, counts and returns, and how it stops."""

import math

import pytest
import torch

from sdelib import (
    VP,
    NonFiniteError,
    Stepped,
    ancestral,
    ddpm,
    denoised,
    euler_maruyama,
    identity,
    langevin,
    linear_betas,
    reverse,
    reverse_diffusion,
    simulate,
    then,
    time_grid,
)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def adding(calls=None):
    """A plain function as a step: x grows by t - t_next; its mean says 100 more."""

    def step(x, t, t_next, generator):
        if calls is not None:
            calls.append((t, t_next, generator))
        moved = x + (t - t_next).reshape(-1, *[1] * (x.ndim - 1)).to(x)
        return Stepped(moved, moved + 100, t_next)

    return step


# --- the walk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [[1.0, 0.7, 0.0], torch.tensor([0.25, 0.5, 2.0]), time_grid(4, t_min=0.1)])
def test_every_interval_is_walked_once_in_order(times):
    calls, g = [], seeded()
    path = simulate(adding(calls), torch.zeros(3, 2, dtype=torch.float64), times, generator=g)
    grid = torch.as_tensor(times, dtype=torch.float64)
    assert len(calls) == len(grid) - 1
    for i, (t, t_next, generator) in enumerate(calls):
        assert torch.equal(t, grid[i].expand(3))
        assert torch.equal(t_next, grid[i + 1].expand(3))
        assert generator is g
    torch.testing.assert_close(
        path.x, (grid[0] - grid[-1]) * torch.ones(3, 2, dtype=torch.float64), rtol=1e-14, atol=1e-14
    )
    assert path.times is None
    assert path.xs is None
    assert path.nfe == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_steps_get_times_in_the_datas_dtype_but_at_least_float32(dtype):
    calls = []
    path = simulate(adding(calls), torch.zeros(2, 1, dtype=dtype), time_grid(300, t_min=1e-3))
    assert path.x.dtype == dtype
    assert {t.dtype for t, _, _ in calls} == {torch.promote_types(dtype, torch.float32)}
    assert len({float(t[0]) for t, _, _ in calls}) == 300  # in bfloat16 many of them would be one


def test_ready_steps_know_the_grid_in_float64():
    """float32 data on 2,000 levels: every step's coefficients are the chain's own, none is off by a level."""
    chain, x = ddpm(linear_betas(2000)), torch.ones(1, 1)
    path = simulate(
        ancestral(chain, lambda x, t: 0 * x, variance="forward"), x, chain.times(), denoise=True, generator=seeded()
    )
    g, by_hand = seeded(), 1.0
    for beta in linear_betas(2000).flip(0).tolist():
        mean = by_hand / math.sqrt(1 - beta)
        by_hand = mean + math.sqrt(beta) * float(torch.randn(1, 1, generator=g))
    assert float(path.x) == pytest.approx(mean, rel=1e-4)  # 2,000 roundings of 6e-8, grown by 1/scale = 157


def test_plain_functions_and_steps_with_a_plan():
    class Planned:
        """Ready steps that do not count themselves: the step's own nfe stands."""

        nfe = 3

        def __call__(self, x, t, t_next, generator):
            raise AssertionError("the plan should be used")

        def plan(self, times):
            return [lambda x, t, t_next, g, i=i: Stepped(x + i, x, t_next) for i in range(len(times) - 1)]

    assert simulate(Planned(), torch.zeros(1, 1), [0.0, 1.0, 2.0, 3.0])[0::3] == (torch.tensor([[3.0]]), 9)
    counted = adding()
    counted.nfe = 2
    assert simulate(counted, torch.zeros(1, 1), [0.0, 1.0, 2.0]).nfe == 4


def test_a_noise_source_is_a_generator():
    class Ones:
        def randn_like(self, x):
            return torch.ones_like(x)

    step = euler_maruyama(lambda x, t: 0 * x, lambda t: 1.0)
    x = simulate(step, torch.zeros(2, 3), [0.0, 0.25, 0.5], generator=Ones()).x
    assert torch.equal(x, torch.ones(2, 3))  # two steps of sqrt(1/4)


# --- what it keeps and returns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("keep", [0, 2, 3, 5, 8, 11])
def test_kept_states_are_evenly_spaced(keep, denoise):
    times = torch.linspace(1, 0, 11, dtype=torch.float64)
    path = simulate(adding(), torch.zeros(2, 3, dtype=torch.float64), times, keep=keep, denoise=denoise)
    assert float(path.x[0, 0]) == pytest.approx(101.0 if denoise else 1.0)
    if not keep:
        return
    wanted = [round(i * 10 / (keep - 1)) for i in range(keep)]
    assert torch.equal(path.times, times[wanted])
    assert path.xs.shape == (keep, 2, 3)
    gaps = path.times.diff().abs()
    assert float(gaps.max() - gaps.min()) < 0.1 + 1e-9  # as even as the grid allows
    torch.testing.assert_close(path.xs[:-1, 0, 0], 1 - path.times[:-1])
    assert torch.equal(path.xs[-1], path.x)  # the last one as returned


def test_denoising_ends_at_tweedies_mean():
    """The last step leaves t_min for 0; without denoising forward variance adds b(t_min) of noise."""
    sde, score = VP(), lambda x, t: -x
    x, times = torch.randn(4, 2, generator=seeded(1), dtype=torch.float64), time_grid(20, t_min=0.05)
    path = simulate(ancestral(sde, score, variance="forward"), x, times, generator=seeded(), denoise=True, keep=21)
    clean = denoised(sde, score, path.xs[-2], torch.full((4,), 0.05, dtype=torch.float64))
    torch.testing.assert_close(path.x, clean, rtol=1e-12, atol=1e-12)
    noisy = simulate(ancestral(sde, score, variance="forward"), x, times, generator=seeded()).x
    assert float((noisy - clean).abs().mean()) > 0.05


def test_gradients_are_kept_only_where_x_asks():
    """VP's exact flow by Euler is linear in x: d x(0)/d x(T) is one number, found by autograd and by a second run."""
    sde = VP()
    step, times = reverse_diffusion(sde, lambda x, t: -x / 2, eta=0.0), time_grid(10, t_min=0.1)
    x = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    out = simulate(step, x, times).x
    out.sum().backward()
    assert float(x.grad) == pytest.approx(float(out.detach()), rel=1e-12)
    weight = torch.tensor(0.5, requires_grad=True)  # a network's parameter makes no graph of a thousand steps
    assert not simulate(reverse_diffusion(sde, lambda x, t: -weight * x), torch.ones(2, 1), times).x.requires_grad
    with torch.no_grad():
        assert not simulate(step, x, times).x.requires_grad


def test_nfe_is_what_the_score_saw():
    sde, calls = VP(), []
    score = lambda x, t: (calls.append(1), -x)[1]
    for step in (
        euler_maruyama(*reverse(sde, score)),
        ancestral(sde, score),
        then(langevin(sde, score, n_steps=3), reverse_diffusion(sde, score)),
        then(langevin(sde, score), identity()),
    ):
        calls.clear()
        path = simulate(step, torch.ones(5, 2), time_grid(7, t_min=0.1), generator=seeded())
        assert path.nfe == len(calls) == 7 * step.nfe
    assert simulate(euler_maruyama(sde.drift, sde.diffusion), torch.ones(2, 1), [0.0, 1.0]).nfe == 0


def test_progress_changes_nothing_but_the_screen(capsys):
    step, x, times = ancestral(VP(), lambda x, t: -x), torch.ones(3, 2), time_grid(6, t_min=0.1)
    quiet = simulate(step, x, times, generator=seeded()).x
    assert capsys.readouterr() == ("", "")
    assert torch.equal(simulate(step, x, times, generator=seeded(), progress=True).x, quiet)
    shown = capsys.readouterr()
    assert "6" in shown.err + shown.out


# --- how it stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_state_stops_it(bad):
    """Items 1 and 3 break on the step from t = 0.5: the message counts them, the path holds what came before."""

    def step(x, t, t_next, generator):
        broken = torch.tensor([[0.0], [bad], [0.0], [bad]]) if float(t[0]) == 0.5 else torch.zeros(4, 1)
        return Stepped(x + 1 + broken, x, t_next)

    step.nfe = 1
    with pytest.raises(
        NonFiniteError, match=r"the step from t = 0\.5 to 0\.25 gave NaN or infinity in 2 of 4 items"
    ) as caught:
        simulate(step, torch.zeros(4, 1), [1.0, 0.75, 0.5, 0.25, 0.0], keep=5)
    path = caught.value.path
    assert torch.equal(path.x, torch.full((4, 1), 2.0))
    assert path.xs[:, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert path.times.tolist() == [1.0, 0.75, 0.5]
    assert path.nfe == 3
    assert isinstance(caught.value, FloatingPointError)


def test_two_infinities_of_opposite_sign_are_seen():
    step = lambda x, t, t_next, g: Stepped(torch.tensor([[math.inf], [-math.inf]]), x, t_next)
    with pytest.raises(NonFiniteError, match="in 2 of 2 items"):
        simulate(step, torch.zeros(2, 1), [1.0, 0.0])


def test_large_and_finite_is_not_bad():
    """The sum of two states of 3e38 overflows float32 although each is finite."""
    step = lambda x, t, t_next, g: Stepped(torch.full_like(x, 3e38), x, t_next)
    assert torch.equal(simulate(step, torch.zeros(2, 1), [1.0, 0.0]).x, torch.full((2, 1), 3e38))


GRID = [1.0, 0.5, 0.0]
refused = [
    ({"step": 3}, TypeError, r"step: needs a function of \(x, t, t_next, generator\), got int"),
    (
        {"step": lambda x, t, u, g: Stepped(x[:, :1], x, u)},
        ValueError,
        r"step: needs to keep x's shape, \(2, 2\), gave \(2, 1\)",
    ),
    ({"x": torch.ones(2, 2, dtype=torch.long)}, TypeError, "x: needs floating-point data, got torch.int64"),
    (
        {"x": torch.tensor([[1.0], [math.nan]])},
        ValueError,
        "x: needs finite values, got NaN or infinity in 1 of 2 items",
    ),
    ({"x": torch.ones(())}, ValueError, r"x: needs shape \(batch, \*shape\)"),
    ({"x": torch.ones(0, 2)}, ValueError, "x: needs .* at least one item"),
    ({"times": [1.0]}, ValueError, "times: .*at least two times"),
    ({"times": [[1.0, 0.0]]}, ValueError, r"times: .*shape \(1, 2\)"),
    ({"times": [1.0, math.nan, 0.0]}, ValueError, "times: .*finite"),
    ({"times": [1.0, math.inf]}, ValueError, "times: .*finite"),
    (
        {"times": [1.0, 0.5, 0.6, 0.0]},
        ValueError,
        r"times: need to rise or fall strictly, got 0\.5 then 0\.6 at position 1",
    ),
    ({"times": [1.0, 0.5, 0.5, 0.0]}, ValueError, r"times: need to rise or fall strictly, got 0\.5 then 0\.5"),
    ({"times": [0.0, 1.0, 0.0]}, ValueError, "times: need to rise or fall strictly"),
    ({"keep": 1}, ValueError, "keep: needs 0, or a whole number from 2 to the grid's 3 times, got 1"),
    ({"keep": 4}, ValueError, "keep: needs 0, .* got 4"),
    ({"keep": 2.0}, ValueError, r"keep: needs 0, .* got 2\.0"),
    ({"keep": True}, ValueError, "keep: needs 0, .* got True"),
    ({"generator": 42}, TypeError, r"generator: needs a torch\.Generator, .* got int; a seed goes in as"),
]


@pytest.mark.parametrize("change, error, message", refused, ids=[m[:40] for _, _, m in refused])
def test_bad_input(change, error, message):
    arguments = {"step": adding(), "x": torch.ones(2, 2), "times": GRID} | change
    with pytest.raises(error, match=message):
        simulate(arguments.pop("step"), arguments.pop("x"), arguments.pop("times"), **arguments)
