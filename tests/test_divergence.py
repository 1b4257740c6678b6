"""Divergences: the exact trace of any field, and its estimate by probes."""

import itertools

import pytest
import torch
from torch import nn

from sdelib import VP, GaussianMixture, divergence, probes, value_and_divergence


def _field(shape, generator):
    """A field that couples every coordinate of an item with every other one, and depends on time."""
    D = int(torch.tensor(shape).prod())
    W = torch.randn(D, D, generator=generator, dtype=torch.float64)

    def fn(x, t):
        flat = x.reshape(len(x), -1)
        return (torch.tanh(flat @ W) * flat.roll(1, 1) + t[:, None] * flat**3).reshape(x.shape)

    return fn


def _jacobian_trace(fn, x, t):
    """The trace of torch.func's Jacobian, one item at a time: another route than the library's."""
    traces = []
    for xi, ti in zip(x, t, strict=True):
        J = torch.func.jacfwd(lambda v, ti=ti: fn(v[None], ti[None])[0])(xi)
        traces.append(J.reshape(xi.numel(), xi.numel()).trace())
    return torch.stack(traces)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 4, 4)])
@pytest.mark.parametrize("grad", [True, False])
def test_exact_trace_is_the_jacobians(shape, grad, generator):
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    fn = _field(shape, generator)
    with torch.set_grad_enabled(grad):
        value, trace = value_and_divergence(fn, x, t)
    assert value.requires_grad == trace.requires_grad == grad
    assert torch.equal(value.detach(), fn(x, t))
    # sums of at most 48 terms of size 1 to 10 in float64
    torch.testing.assert_close(trace.detach(), _jacobian_trace(fn, x, t), rtol=1e-11, atol=1e-11)


def test_a_mixtures_score_has_the_second_derivative_of_its_density(generator):
    """tr(d score/dx) is the Laplacian of log p: against second differences with step h, error O(h^2) = 1e-6 here."""
    law = GaussianMixture([0.4, 0.6], [[0.0, 1.0], [1.0, -1.0]], [0.3, 0.8]).at(VP(), 0.1)
    x, h = torch.randn(6, 2, generator=generator, dtype=torch.float64), 1e-3
    laplacian = -4 * law.log_prob(x)
    for d in range(2):
        e = h * torch.eye(2, dtype=torch.float64)[d]
        laplacian = laplacian + law.log_prob(x + e) + law.log_prob(x - e)
    got = divergence(lambda x, t: law.score(x), x, torch.zeros(6))
    torch.testing.assert_close(got.detach(), laplacian / h**2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2,), (4,), (2, 1, 3)])
def test_all_sign_probes_average_to_the_trace(shape, generator):
    """Over all 2^D probes of signs E[v v^T] is the identity exactly, so the mean of v^T J v is the trace, up to rounding."""
    D = int(torch.tensor(shape).prod())
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    t, fn = torch.tensor([0.2, 0.7], dtype=torch.float64), _field(shape, generator)
    estimates = []
    for signs in itertools.product([-1.0, 1.0], repeat=D):
        probe = torch.tensor(signs, dtype=torch.float64).reshape(1, *shape).expand_as(x)
        estimates.append(divergence(fn, x, t, probe=probe).detach())
    estimates = torch.stack(estimates)
    assert estimates.std(0).min() > 0.01  # else the probes would have nothing to average
    torch.testing.assert_close(estimates.mean(0), _jacobian_trace(fn, x, t), rtol=1e-11, atol=1e-11)


def test_one_probe_is_its_quadratic_form(generator):
    A = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    x, v = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    got = divergence(lambda x, t: x @ A.T, x, torch.zeros(3), probe=v)
    torch.testing.assert_close(got.detach(), torch.einsum("bi,ij,bj->b", v, A, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("grad", [True, False])
def test_one_forward_a_call(probe, grad):
    calls = []

    def fn(x, t):
        calls.append(len(x))
        return x**3

    x = torch.ones(5, 3, 2)
    with torch.set_grad_enabled(grad):
        value_and_divergence(fn, x, torch.zeros(5), probe=torch.ones_like(x) if probe else None)
    assert calls == [5]


@pytest.mark.parametrize("grad", [True, False])
def test_many_probes_take_one_forward_and_equal_single_ones(grad, generator):
    calls = []
    field = _field((3, 2), generator)

    def fn(x, t):
        calls.append(len(x))
        return field(x, t)

    x = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    v = probes(x, 5, generator=generator)
    with torch.set_grad_enabled(grad):
        value, found = value_and_divergence(fn, x, t, probe=v)
        assert calls == [4]
        assert found.requires_grad == value.requires_grad == grad
        alone = torch.stack([divergence(fn, x, t, probe=one) for one in v])
    assert found.shape == (5, 4)
    assert torch.equal(found, alone)
    assert torch.equal(divergence(fn, x, t, probe=v[:1]).detach()[0], alone[0].detach())


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_the_variance_of_an_estimate(kind, generator):
    """x -> A x with S = (A + A^T)/2: 2 sum_{i != j} S_ij^2 over signs (Hutchinson), 2 sum_ij S_ij^2 over normal numbers.

    By 40,000 probes; the error of such a variance is sqrt((kurtosis - 1)/n), kurtosis below 9 here: 1.5 %, four of them.
    """
    n = 40_000
    A = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    S = 0.5 * (A + A.T)
    square = S**2 if kind == "gaussian" else (S - torch.diag(S.diagonal())) ** 2
    x = torch.zeros(n, 6, dtype=torch.float64)
    found = divergence(
        lambda x, t: x @ A.T, x, torch.zeros(n), probe=probes(x, kind=kind, generator=generator)[0]
    ).detach()
    variance = 2 * float(square.sum())
    assert float(found.var()) == pytest.approx(variance, rel=0.06)
    assert float(found.mean()) == pytest.approx(float(A.trace()), abs=4 * (variance / n) ** 0.5)
    if kind == "rademacher":  # coordinates that do not mix: exact, each time
        x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
        exact = divergence(lambda x, t: x**3, x, torch.zeros(5))
        signs = divergence(lambda x, t: x**3, x, torch.zeros(5), probe=probes(x, 3, generator=generator))
        torch.testing.assert_close(signs, exact.expand(3, 5), rtol=1e-13, atol=0)


def test_probes_have_mean_0_and_covariance_1(generator, untouched):
    x = torch.zeros(2, 3, 2)
    for kind in ("rademacher", "gaussian"):
        v = probes(x, 20_000, kind=kind, generator=generator)
        assert v.shape == (20_000, 2, 3, 2)
        flat = v.reshape(20_000, -1)
        assert float(flat.mean(0).abs().max()) < 5 / 20_000**0.5
        # 78 different entries, each with an error of 1/sqrt(n), on the diagonal of normal ones sqrt(2/n)
        assert float((flat.T @ flat / 20_000 - torch.eye(12)).abs().max()) < 5 * (2 / 20_000) ** 0.5
        again = probes(x, 2, kind=kind, generator=torch.Generator().manual_seed(4))
        assert torch.equal(again, probes(x, 2, kind=kind, generator=torch.Generator().manual_seed(4)))
    assert set(probes(x.double(), 3, generator=generator).unique().tolist()) == {-1.0, 1.0}
    assert probes(x.half(), generator=generator).dtype == torch.float16


def test_sixteen_bits_are_added_up_in_32():
    """3,000 terms of 1.01: bfloat16 itself would stop at 512 or so, or round the sum by 8."""
    x = torch.ones(1, 3000, dtype=torch.bfloat16)
    v = probes(x, generator=torch.Generator().manual_seed(0))[0]
    found = divergence(lambda x, t: 1.0078125 * x, x, torch.zeros(1), probe=v).detach()
    assert found.dtype == torch.float32
    assert float(found) == 3000 * 1.0078125


@pytest.mark.parametrize("probe", [None, torch.ones(4, 3)])
def test_constant_fields_have_none(probe):
    """Constant in x with parameters or without: 0, as a zero of x's dtype, and no error from autograd."""
    x, t = torch.ones(4, 3), torch.zeros(4)
    bias = nn.Parameter(torch.ones(3))
    for fn in (
        lambda x, t: torch.full_like(x, 7.0),
        lambda x, t: bias.expand_as(x),
        lambda x, t: bias + 0 * t[:, None],
    ):
        value, trace = value_and_divergence(fn, x, t, probe=probe)
        assert torch.equal(trace.detach(), torch.zeros(4))
        assert value.shape == x.shape


@pytest.mark.parametrize("probe", [False, True])
def test_gradients_flow_through_it(probe, generator):
    """div(W x) = tr W, so its gradient with respect to W is I (v v^T with a probe); for x^3/3 the gradient in x is 2 x."""
    W = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    x, v = (torch.randn(1, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    divergence(lambda x, t: x @ W.T, x, torch.zeros(1), probe=v if probe else None).sum().backward()
    expected = v.T @ v if probe else torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(W.grad, expected, rtol=1e-13, atol=1e-13)
    x.requires_grad_()
    divergence(lambda x, t: x**3 / 3, x, torch.zeros(1), probe=v if probe else None).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() * (v**2 if probe else 1.0), rtol=1e-13, atol=1e-13)


def test_no_graph_is_left_under_no_grad_and_x_stays_as_it_was():
    x = torch.ones(2, 2)
    with torch.no_grad():
        value, trace = value_and_divergence(lambda x, t: x**2, x, torch.zeros(2))
    assert not (value.requires_grad or trace.requires_grad or x.requires_grad)
    assert trace.tolist() == [4.0, 4.0]


def test_no_item_depends_on_its_neighbours(generator):
    fn = _field((3,), generator)
    x, t = torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.linspace(0, 1, 5, dtype=torch.float64)
    together = divergence(fn, x, t).detach()
    alone = torch.cat([divergence(fn, x[i : i + 1], t[i : i + 1]).detach() for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-13)


def test_points_and_images_take_the_same_path(generator):
    fn = _field((6,), generator)
    x, t = torch.randn(4, 6, generator=generator, dtype=torch.float64), torch.linspace(0, 1, 4, dtype=torch.float64)
    as_image = divergence(lambda x, t: fn(x.reshape(4, 6), t).reshape(x.shape), x.reshape(4, 1, 2, 3), t)
    assert torch.equal(as_image, divergence(fn, x, t))


def test_bad_input():
    x, t = torch.ones(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"probe: needs the shape of x, \(2, 3\), or .* got \(3,\)"):
        divergence(lambda x, t: x, x, t, probe=torch.ones(3))
    with pytest.raises(ValueError, match=r"fn: needs the shape of x, \(2, 3\), got \(2,\)"):
        divergence(lambda x, t: x.sum(1), x, t)
    for wrong, got in ((torch.ones(4, 2, 2), r"\(4, 2, 2\)"), (torch.ones(2, 3).long(), "torch.int64"), (3.0, "float")):
        with pytest.raises(ValueError, match=rf"probe: needs the shape of x, .* got {got}"):
            divergence(lambda x, t: x, x, t, probe=wrong)
    with pytest.raises(ValueError, match="kind: needs one of 'rademacher', 'gaussian', got 'signs'"):
        probes(x, kind="signs")
    with pytest.raises(ValueError, match="n: needs a whole number of probes, at least 1, got 0"):
        probes(x, 0)
    with pytest.raises(TypeError, match="x0: needs floating-point data"):
        probes(x.long())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        divergence(lambda x, t: x, x, t)
