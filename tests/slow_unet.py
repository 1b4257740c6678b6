"""The authors' U-Net written out slowly, as an oracle: no convolution, no normalisation, no attention of PyTorch's.

It walks through the paper's options (section 4.4, appendix H) and takes the weights one after the other by the names of the
authors' checkpoints, so it shares neither code nor order of modules with sdelib.models. Convolutions are sums over taps, FIR
filters are dense matrices, softmax and normalisation are spelled out; all in the precision of what goes in.
"""

import math

import torch
import torch.nn.functional as F


def silu(x):
    return x / (1 + torch.exp(-x))


def normed(x, weight, bias, groups):
    """Group normalisation with eps 1e-6: in each group of channels mean 0 and (biased) variance 1."""
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(2, keepdim=True)
    spread = torch.sqrt((centred**2).mean(2, keepdim=True) + 1e-6)
    return (centred / spread).reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def convolved(x, weight, bias, *, stride=1, pad=(1, 1, 1, 1)):
    """y[p] = sum over taps of W_tap x[stride p + tap]."""
    x = F.pad(x, pad)
    rows, columns = ((x.shape[2 + i] - weight.shape[2 + i]) // stride + 1 for i in (0, 1))
    y = sum(
        torch.einsum(
            "oc,bchw->bohw",
            weight[:, :, i, j],
            x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride],
        )
        for i in range(weight.shape[2])
        for j in range(weight.shape[3])
    )
    return y + bias[:, None, None]


def pointwise(x, W, b):
    """The authors' NIN: each pixel's channels times W[in, out]."""
    return torch.einsum("bchw,cd->bdhw", x, W) + b[:, None, None]


# --- resampling as dense matrices ---------------------------------------------------------------------------------


def down_matrix(n, taps, dtype=torch.float64):
    """(n/2, n): y[i] = sum_j k[j] x[2 i + len/2 - j], zeros beyond the border; None: the mean of two."""
    D = torch.zeros(n // 2, n, dtype=dtype)
    for i in range(n // 2):
        if taps is None:
            D[i, 2 * i : 2 * i + 2] = 0.5
            continue
        for j, tap in enumerate(taps):
            if 0 <= (m := 2 * i + len(taps) // 2 - j) < n:
                D[i, m] += tap / sum(taps)
    return D


def up_matrix(n, taps, dtype=torch.float64):
    """(2 n, n): zeros between the pixels, then twice the filter, y[i] = sum_m 2 k[i + len/2 - 1 - 2 m] x[m]; None: repeat."""
    U = torch.zeros(2 * n, n, dtype=dtype)
    for i in range(2 * n):
        if taps is None:
            U[i, i // 2] = 1.0
            continue
        for m in range(n):
            if 0 <= (j := i + len(taps) // 2 - 1 - 2 * m) < len(taps):
                U[i, m] += 2 * taps[j] / sum(taps)
    return U


def blur_matrix(n, taps, pad, dtype=torch.float64):
    """(n + 2 pad + 1 - len, n): the filter between ``pad`` zeros on either side, y[i] = sum_j k[j] x[i - pad + len - 1 - j]."""
    B = torch.zeros(n + 2 * pad + 1 - len(taps), n, dtype=dtype)
    for i in range(len(B)):
        for j, tap in enumerate(taps):
            if 0 <= (m := i - pad + len(taps) - 1 - j) < n:
                B[i, m] += tap / sum(taps)
    return B


def along_both(M, x):
    """M x M^T for every channel."""
    return torch.einsum("ij,bcjk,lk->bcil", M.to(x), x, M.to(x))


def shrunk(x, taps):
    return along_both(down_matrix(x.shape[-1], taps), x)


def grown(x, taps):
    return along_both(up_matrix(x.shape[-1], taps), x)


# --- blocks, by the authors' names of their parameters ------------------------------------------------------------


class Weights:
    """Named tensors, and who asked for which: ``at("all_modules.4.")`` is a view of those below a name."""

    def __init__(self, tensors, prefix="", used=None):
        self.tensors, self.prefix, self.used = tensors, prefix, set() if used is None else used

    def at(self, prefix):
        return Weights(self.tensors, self.prefix + prefix, self.used)

    def __contains__(self, name):
        return self.prefix + name in self.tensors

    def __call__(self, *names):
        self.used |= {self.prefix + name for name in names}
        return [self.tensors[self.prefix + name] for name in names]

    def layer(self, name):
        return self(f"{name}.weight", f"{name}.bias")


def groups_of(channels, largest):
    return largest or min(channels // 4, 32)


def residual_block(w, x, heard, *, rescale=True, groups=None, resample=None):
    h = silu(normed(x, *w.layer("GroupNorm_0"), groups_of(x.shape[1], groups)))
    if resample is not None:
        h, x = resample(h), resample(x)
    dense, bias = w.layer("Dense_0")
    h = convolved(h, *w.layer("Conv_0")) + (heard @ dense.T + bias)[:, :, None, None]
    h = silu(normed(h, *w.layer("GroupNorm_1"), groups_of(h.shape[1], groups)))
    h = convolved(h, *w.layer("Conv_1"))
    if "Conv_2.weight" in w:
        x = convolved(x, *w.layer("Conv_2"), pad=(0, 0, 0, 0))
    elif "NIN_0.W" in w:
        x = pointwise(x, *w("NIN_0.W", "NIN_0.b"))
    return (x + h) / math.sqrt(2.0 if rescale else 1.0)


def attention(w, x, *, rescale=True, groups=None):
    h = normed(x, *w.layer("GroupNorm_0"), groups_of(x.shape[1], groups))
    q, k, v = (pointwise(h, *w(f"NIN_{i}.W", f"NIN_{i}.b")).flatten(2) for i in range(3))  # (batch, channels, pixels)
    share = torch.exp(torch.einsum("bcp,bcq->bpq", q, k) / math.sqrt(x.shape[1]))
    share = share / share.sum(2, keepdim=True)  # pixel p asks pixel q
    h = pointwise(torch.einsum("bpq,bcq->bcp", share, v).reshape(x.shape), *w("NIN_3.W", "NIN_3.b"))
    return (x + h) / math.sqrt(2.0 if rescale else 1.0)


def conv_down(w, x, taps):
    if taps is None:  # one row and one column of zeros at the lower right
        return convolved(x, *w.layer("Conv_0"), stride=2, pad=(0, 1, 0, 1))
    x = along_both(blur_matrix(x.shape[-1], taps, len(taps) // 2), x)
    return convolved(x, *w.layer("Conv2d_0"), stride=2, pad=(0, 0, 0, 0))


def conv_up(w, x, taps):
    if taps is None:
        return convolved(grown(x, None), *w.layer("Conv_0"))
    n = x.shape[-1]
    apart = x.new_zeros(*x.shape[:2], 2 * n - 1, 2 * n - 1)
    apart[:, :, ::2, ::2] = x
    weight, bias = w.layer("Conv2d_0")
    y = convolved(apart, weight, torch.zeros_like(bias), pad=(2, 2, 2, 2))
    return 4 * along_both(blur_matrix(2 * n + 1, taps, len(taps) // 2 - 1), y) + bias[:, None, None]


def features(w, label, channels, kind):
    """The label's features, and how many modules they take."""
    if kind == "fourier":
        (W,) = w("0.W")
        angle = label[:, None] * W[None, :] * 2 * math.pi
        return torch.cat([torch.sin(angle), torch.cos(angle)], 1), 1
    half = channels // 2
    frequencies = torch.tensor([10_000.0 ** (-i / max(half - 1, 1)) for i in range(half)], dtype=label.dtype)
    angle = label[:, None] * frequencies
    blank = label.new_zeros(len(label), channels % 2)
    return torch.cat([torch.sin(angle), torch.cos(angle), blank], 1), 0


# --- the whole network --------------------------------------------------------------------------------------------


def slow_unet(
    tensors, x, label, *, image_size, channels, multipliers, blocks, attention_at, progressive_in="none", progressive_out="none",
    block="biggan", fir=None, rescale=True, time="positional", groups=None, combine="sum", **_,
):  # fmt: skip
    """The output, and which of ``tensors`` it took."""
    w = Weights(tensors, "all_modules.")
    levels, taps, number = len(multipliers), fir, 0
    kinds = {"rescale": rescale, "groups": groups}

    def module():
        nonlocal number
        number += 1
        return w.at(f"{number - 1}.")

    def plain():  # a convolution or a norm that is a module of its own
        nonlocal number
        number += 1
        return w.layer(str(number - 1))

    def joined(a, b):
        return (a + b) / math.sqrt(2.0 if rescale else 1.0)

    def spoken(h):
        return convolved(silu(normed(h, *plain(), groups_of(h.shape[1], groups))), *plain())

    temb, number = features(w, label, channels, time)
    for last in (False, True):
        weight, bias = plain()
        temb = temb @ weight.T + bias
        temb = temb if last else silu(temb)
    heard = silu(temb)

    picture = x
    h = convolved(x, *plain())
    aside = [h]
    for level in range(levels):
        for _ in range(blocks):
            h = residual_block(module(), h, heard, **kinds)
            if h.shape[-1] in attention_at:
                h = attention(module(), h, **kinds)
            aside.append(h)
        if level == levels - 1:
            break
        if block == "ddpm":
            h = conv_down(module(), h, taps)
        else:
            h = residual_block(module(), h, heard, resample=lambda x: shrunk(x, taps), **kinds)
        if progressive_in == "skip":
            picture = shrunk(picture, taps)
            mixed = convolved(picture, *module().layer("Conv_0"), pad=(0, 0, 0, 0))
            h = mixed + h if combine == "sum" else torch.cat([mixed, h], 1)
        elif progressive_in == "residual":
            picture = h = joined(conv_down(module(), picture, taps), h)
        aside.append(h)

    h = residual_block(module(), h, heard, **kinds)
    h = attention(module(), h, **kinds)
    h = residual_block(module(), h, heard, **kinds)

    said = None
    for level in reversed(range(levels)):
        for _ in range(blocks + 1):
            h = residual_block(module(), torch.cat([h, aside.pop()], 1), heard, **kinds)
        if h.shape[-1] in attention_at:
            h = attention(module(), h, **kinds)
        if progressive_out == "skip":
            said = spoken(h) if said is None else grown(said, taps) + spoken(h)
        elif progressive_out == "residual" and said is None:
            said = spoken(h)
        elif progressive_out == "residual":
            said = h = joined(conv_up(module(), said, taps), h)
        if level > 0 and block == "ddpm":
            h = conv_up(module(), h, taps)
        elif level > 0:
            h = residual_block(module(), h, heard, resample=lambda x: grown(x, taps), **kinds)
    assert not aside and h.shape[-1] == image_size
    return said if progressive_out == "skip" else spoken(h), w.used
