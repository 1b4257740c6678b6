r"""Checkpoints: the authors' published weights in this library's networks, and weights in safetensors.

The authors' PyTorch files are ``torch.save`` of a dictionary: ``model`` is the state of a DataParallel wrapper, whose names are
``module.all_modules.N. ...`` with N counting modules in the order in which they run; ``ema`` holds ``shadow_params``, the average
of the trainable ones in the order of ``model``; there are ``optimizer`` and ``step`` besides. :func:`authors_layout` says which
of their tensors make which of ours:

=====================  ==========================================
here                   there
=====================  ==========================================
embed                  [N.W,] N, N+1          frequencies, two dense layers
residual block         N.GroupNorm_0, Conv_0, Dense_0, GroupNorm_1, Conv_1 and Conv_2, or NIN_0 in a "ddpm" one
attention              N.GroupNorm_0, NIN_0..2 in one ``ask``, NIN_3
speak, last            N, N+1                 a norm and a convolution
=====================  ==========================================

A NIN is a linear map of the channels, W[in, out]; here it is a 1 x 1 convolution, weight[out, in, 1, 1].

Files are read with ``weights_only=True``: tensors and plain containers, never pickled code. From the command line::

    python -m sdelib.checkpoint FILE                      what is in it, and which configurations it fits
    python -m sdelib.checkpoint FILE --config NAME        that, and FILE's weights as safetensors beside it
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sdelib.models import UNet, blocks, layers, published
from sdelib.models.zoo import PUBLISHED

Net = TypeVar("Net", bound=nn.Module)
Number = TypeVar("Number", int, float)
SHOWN = 8  # names of each kind that an error lists


class Entry(NamedTuple):
    """One tensor of ours: its name, the authors' tensors it is made of, and whether those are NIN weights."""

    name: str
    sources: tuple[str, ...]
    nin: bool
    trained: bool


class Checkpoint(NamedTuple):
    """An authors' file: ``weights`` by their names without ``module.``; ``ema`` likewise, trainable ones only, or ``None``."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    step: int | None
    ema_decay: float | None


def authors_layout(net: UNet) -> list[Entry]:
    """Which of the authors' tensors make which of ours, in their order.

    Raises:
        TypeError: if ``net`` is not a :class:`~sdelib.models.UNet`.
    """
    if not isinstance(net, UNet):
        hint = "; a score's network is score.net" if isinstance(getattr(net, "net", None), UNet) else ""
        raise TypeError(f"net: needs a UNet, got {type(net).__name__}{hint}")
    entries: list[Entry] = []
    number = 0

    def put(name: str, *sources: str, nin: bool = False, trained: bool = True) -> None:
        entries.append(Entry(name, tuple(f"all_modules.{source}" for source in sources), nin, trained))

    def layer(name: str, source: str) -> None:
        put(f"{name}.weight", f"{source}.weight")
        put(f"{name}.bias", f"{source}.bias")

    for name, part in net.parts():
        match part:
            case layers.TimeNetwork():
                if isinstance(part.features, layers.FourierTime):
                    put(f"{name}.features.frequencies", f"{number}.W", trained=False)
                    number += 1
                layer(f"{name}.dense0", f"{number}")
                layer(f"{name}.dense1", f"{number + 1}")
                number += 2
            case blocks.Speak():
                layer(f"{name}.norm", f"{number}")
                layer(f"{name}.conv", f"{number + 1}")
                number += 2
            case blocks.ResBlock():
                theirs = {"norm0": "GroupNorm_0", "conv0": "Conv_0", "dense": "Dense_0"}
                theirs |= {"norm1": "GroupNorm_1", "conv1": "Conv_1"}
                for ours, source in theirs.items():
                    layer(f"{name}.{ours}", f"{number}.{source}")
                if part.shortcut is not None and net.block == "biggan":
                    layer(f"{name}.shortcut", f"{number}.Conv_2")
                elif part.shortcut is not None:
                    put(f"{name}.shortcut.weight", f"{number}.NIN_0.W", nin=True)
                    put(f"{name}.shortcut.bias", f"{number}.NIN_0.b")
                number += 1
            case blocks.Attention():
                layer(f"{name}.norm", f"{number}.GroupNorm_0")
                put(f"{name}.ask.weight", *(f"{number}.NIN_{i}.W" for i in range(3)), nin=True)
                put(f"{name}.ask.bias", *(f"{number}.NIN_{i}.b" for i in range(3)))
                put(f"{name}.answer.weight", f"{number}.NIN_3.W", nin=True)
                put(f"{name}.answer.bias", f"{number}.NIN_3.b")
                number += 1
            case blocks.ConvDown() | blocks.ConvUp():
                layer(f"{name}.conv", f"{number}.{'Conv_0' if part.blur is None else 'Conv2d_0'}")
                number += 1
            case nn.Conv2d() if name == "first":
                layer(name, f"{number}")
                number += 1
            case nn.Conv2d():  # a mix of progressive input
                layer(name, f"{number}.Conv_0")
                number += 1
            case _:
                assert not list(part.parameters()), name  # Up and Down: no weights, no number
    return entries


def read_authors(path: str | Path) -> Checkpoint:
    """Read one of the authors' files, ``path``. No pickled code is run.

    A bare state dictionary, with or without ``module.``, is taken too.

    Raises:
        OSError: if the file cannot be read, FileNotFoundError if there is none.
        ValueError: if it is not a torch file of plain tensors and containers, or not of this form.
    """
    try:
        with warnings.catch_warnings():  # torch's words on pickles of other kinds, which are refused anyway
            warnings.simplefilter("ignore")
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a damaged file can raise is not known beforehand
        raise ValueError(
            f"path: needs a torch file of plain tensors and containers, {os.fspath(path)!r} is none: {_reason(error)}"
        ) from error
    if not isinstance(raw, Mapping):
        raise ValueError(
            f"path: needs a dictionary with 'model' in it, {os.fspath(path)!r} holds a {type(raw).__name__}"
        )
    model = raw.get("model", raw)
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()) or not model:
        raise ValueError(f"path: needs 'model' to be a state dictionary of tensors, in {os.fspath(path)!r} it is not")
    weights = {str(name).removeprefix("module."): value for name, value in model.items()}
    ema, decay = raw.get("ema") if "model" in raw else None, None
    shadow: dict[str, Tensor] | None = None
    if ema is not None:
        if not isinstance(ema, Mapping) or not isinstance(ema.get("shadow_params"), list | tuple):
            raise ValueError("path: needs 'ema' to hold the list 'shadow_params', here it does not")
        tensors = list(ema["shadow_params"])
        if not all(isinstance(value, Tensor) for value in tensors):
            raise ValueError("path: needs 'shadow_params' to hold tensors, here it holds something else")
        # In the order of `model`, without what is no parameter or not trained: the noise levels and Fourier frequencies.
        names = [name for name in weights if name.startswith("all_modules.") and not _frozen(name)]
        if len(tensors) != len(names):
            raise ValueError(
                f"path: needs one averaged tensor for each of the {len(names)} trainable ones, 'shadow_params' has {len(tensors)}"
            )
        shadow = dict(zip(names, tensors, strict=True))
        wrong = [name for name in names if shadow[name].shape != weights[name].shape]
        if wrong:
            raise ValueError(
                f"path: needs averaged tensors in the order and of the shapes of 'model', differ: {_some(wrong)}"
            )
        decay = ema.get("decay")
    step = raw.get("step") if "model" in raw else None
    return Checkpoint(weights, shadow, _number(step, int, "'step'"), _number(decay, float, "'decay' of 'ema'"))


def _number(value: Any, kind: type[Number], what: str) -> Number | None:
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"path: needs {what} to be a number, here it is a {type(value).__name__}") from error


def _reason(error: Exception) -> str:
    """Why a file was not read: the code that it would have run, or the first line of what torch says.

    Not all of what torch says, which goes on to tell how to run it all the same.
    """
    text = str(error)
    code = re.search(r"GLOBAL (\S+)|Unsupported (?:class|function) (\S+)", text)
    if code:
        return f"it asks for {code[1] or code[2]}, which was not run"
    if text.startswith("Weights only load failed"):
        return "it is a pickle of something else, which was not run"
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def _frozen(name: str) -> bool:
    """Fourier frequencies: the one tensor W that sits directly in a module (a NIN's is one name deeper)."""
    return name.count(".") == 2 and name.endswith(".W")


def converted(net: UNet, checkpoint: Checkpoint, *, ema: bool = True) -> dict[str, Tensor]:
    """The tensors of ``net`` by their names here, taken from an authors' checkpoint; ``net`` itself stays as it is.

    Args:
        net: of the architecture that the checkpoint has; it may be on the meta device.
        checkpoint: from :func:`read_authors`.
        ema: take the averaged weights, with which one samples, rather than the raw ones.

    Raises:
        ValueError: if there is no average though one was asked for, or if anything does not fit: every tensor that is missing,
            left over, of another shape or not finite is named.
    """
    if ema and checkpoint.ema is None:
        raise ValueError("ema: this file holds no averaged weights; ema=False takes the raw ones")
    theirs = checkpoint.weights | (checkpoint.ema or {} if ema else {})
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    layout = authors_layout(net)
    needed = {source for entry in layout for source in entry.sources}
    faults: dict[str, list[str]] = {
        "missing": sorted(needed - theirs.keys(), key=_order),
        "left over": sorted(theirs.keys() - needed - {"sigmas"}, key=_order),
        "of another shape": [],
        "not finite": [],
    }
    tensors = {}
    for entry in layout:
        if not all(source in theirs for source in entry.sources):
            continue
        parts = [theirs[source] for source in entry.sources]
        wanted = _their_shape(own[entry.name].shape, entry)
        wrong = [
            f"{source} {list(part.shape)} instead of {wanted}"
            for source, part in zip(entry.sources, parts, strict=True)
            if list(part.shape) != wanted
        ]
        faults["of another shape"] += wrong
        faults["not finite"] += [
            source for source, part in zip(entry.sources, parts, strict=True) if not bool(torch.isfinite(part).all())
        ]
        if not wrong:
            joined = torch.cat([part.T if entry.nin else part for part in parts])
            tensors[entry.name] = joined.reshape(own[entry.name].shape)
    found = [f"{len(names)} {what}: {_some(names)}" for what, names in faults.items() if names]
    if found:
        raise ValueError(f"the checkpoint does not fit the network; of the authors' tensors, {'; '.join(found)}")
    return tensors


def load_authors(net: UNet, path: str | Path, *, ema: bool = True) -> UNet:
    """Put the weights of one of the authors' published files into ``net``: all of them, or none and an error.

    The scalings around the network are not in the file: for VE, ``net_score(net, VE(), inp=lambda x, t: 2 * x - 1)`` with data in
    [0, 1]; for VP and sub-VP, ``net_score(net, VP())`` with data in [-1, 1].

    Args:
        net: of the architecture of the file, for example ``ncsnpp()``; :func:`~sdelib.models.published` knows all by name.
        path: the file.
        ema: take the averaged weights, with which one samples, rather than the raw ones.

    Returns:
        ``net``, in its own dtype and on its own device.

    Raises:
        TypeError: if ``net`` is not a :class:`~sdelib.models.UNet`.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not of plain tensors, or does not fit; the message names what does not.
    """
    authors_layout(net)  # refuse what is no U-Net before a large file is read
    return _fill(net, converted(net, read_authors(path), ema=ema))


def save_weights(net: nn.Module, path: str | Path, **about: str) -> None:
    """Write the parameters and buffers of ``net`` to ``path`` as safetensors; ``about`` is stored with them, as text.

    Raises:
        ImportError: if safetensors is missing.
    """
    _safetensors().save_file(
        {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}, path, metadata=about
    )


def load_weights(net: nn.Module, path: str | Path) -> nn.Module:
    """Put weights from the safetensors file ``path`` into ``net``, a network of the same make: all of them, or none and an error.

    Raises:
        ImportError: if safetensors is missing.
        FileNotFoundError: if there is no such file.
        ValueError: if it is no safetensors file, or its names or shapes are not the network's.
    """
    safetensors = _safetensors()
    try:
        tensors = safetensors.load_file(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # the package's own error type derives from Exception alone
        raise ValueError(f"path: needs a safetensors file, {os.fspath(path)!r} is none: {error}") from error
    own = net.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if wrong:
        raise ValueError(f"path: needs the network's own tensors, differ in name or shape: {_some(wrong)}")
    return _fill(net, tensors)


def _fill(net: Net, tensors: Mapping[str, Tensor]) -> Net:
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    if any(own[name].is_meta for name in tensors):
        raise ValueError("net: needs memory to put weights into; this one is on the meta device")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
    return net


def _their_shape(shape: torch.Size, entry: Entry) -> list[int]:
    """The shape that each of an entry's sources must have."""
    parts = len(entry.sources)
    return [shape[1], shape[0] // parts] if entry.nin else [shape[0] // parts, *shape[1:]]


def _order(name: str) -> list[tuple[int, str]]:
    """Sort all_modules.9 before all_modules.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('weights in safetensors need that package: pip install "sdelib[train]"') from error
    return safetensors.torch


# --- the command -------------------------------------------------------------------------------------------------


def _fits(checkpoint: Checkpoint) -> Iterator[str]:
    """The published configurations that a checkpoint fits."""
    verdicts: dict[str, bool] = {}  # several configurations share a network
    for name, make in PUBLISHED.items():
        if (network := repr(make)) not in verdicts:
            with torch.device("meta"):
                net = published(name)
            try:
                converted(net, checkpoint, ema=False)
                verdicts[network] = True
            except ValueError:
                verdicts[network] = False
        if verdicts[network]:
            yield name


def _changes(pairs: list[str]) -> dict[str, Any]:
    """``channels=8 multipliers=1,2 fir=none`` as arguments."""

    def value(text: str) -> Any:
        if "," in text:
            return tuple(value(part) for part in text.split(",") if part)
        if text.lower() in ("none", "true", "false"):
            return {"none": None, "true": True, "false": False}[text.lower()]
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    changes = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--change: needs KEY=VALUE, such as channels=64, got {pair!r}")
        changes[key] = value(text)
        if key in ("multipliers", "attention_at") and not isinstance(changes[key], tuple):
            changes[key] = (changes[key],)
    return changes


def main(arguments: list[str] | None = None) -> int:
    """List, check and convert one of the authors' files, as the command line's ``arguments`` say.

    Returns:
        the exit status: 0 done, 1 the file does not fit, 2 bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sdelib.checkpoint",
        description="Look into one of the authors' checkpoints, check it, convert it.",
    )
    parser.add_argument("file", type=Path, help="a .pth file as the authors publish it")
    parser.add_argument("--config", metavar="NAME", help=f"one of {', '.join(PUBLISHED)}")
    parser.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of UNet that differs from NAME's",
    )
    parser.add_argument("--raw", action="store_true", help="take the raw weights, not the averaged ones")
    parser.add_argument("--check", action="store_true", help="check only, write nothing")
    parser.add_argument("--out", type=Path, metavar="PATH", help="where to write (default: FILE with .safetensors)")
    parser.add_argument("--force", action="store_true", help="write over what is there")
    parser.add_argument("--names", action="store_true", help="print every tensor: ours, theirs and the shape")
    args = parser.parse_args(arguments)
    try:
        return _run(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)  # noqa: T201 - this is the command
        return 1 if str(error).startswith("the checkpoint does not fit") else 2


def _run(args: argparse.Namespace) -> int:
    say = print
    for given, option in (
        (args.change, "--change"),
        (args.out, "--out"),
        (args.check, "--check"),
        (args.names, "--names"),
    ):
        if given and not args.config:
            raise ValueError(f"{option}: needs --config, the network that it is about")
    out = args.out or args.file.with_suffix(".safetensors")
    if args.config and not args.check and out.exists() and not args.force:
        raise ValueError(f"{out} exists already; --force writes over it, --out names another file")
    if not out.parent.is_dir():
        raise ValueError(f"--out: needs a folder that exists, {str(out.parent)!r} does not")
    changes = _changes(args.change)
    with torch.device("meta"):  # first: a wrong name or change is told before a large file is read
        net = published(args.config, **changes) if args.config else None
    checkpoint = read_authors(args.file)
    tensors = checkpoint.weights
    numbers = sum(value.numel() for name, value in tensors.items() if name != "sigmas")
    say(f"{args.file}: {len(tensors)} tensors, {numbers:,} numbers, step {checkpoint.step}")
    if checkpoint.ema is None:
        say("no averaged weights")
    else:
        say(f"averaged weights of {len(checkpoint.ema)} tensors, decay {checkpoint.ema_decay}")
    if net is None:
        for name, value in tensors.items():
            say(f"  {name:<44} {list(value.shape)}")
        fitting = list(_fits(checkpoint))
        say(f"fits: {', '.join(fitting) if fitting else 'none of the published configurations'}")
        return 0
    ours = converted(net, checkpoint, ema=not args.raw)
    if args.names:
        for entry in authors_layout(net):
            say(f"  {entry.name:<34} {list(ours[entry.name].shape)!s:<20} {', '.join(entry.sources)}")
    kind = "raw" if args.raw else "averaged"
    say(f"fits {args.config}: {len(ours)} tensors, {sum(v.numel() for v in ours.values()):,} numbers, {kind} weights")
    if args.check:
        return 0
    about = {"config": args.config, "changes": " ".join(args.change), "weights": kind, "step": str(checkpoint.step)}
    _safetensors().save_file({name: value.contiguous() for name, value in ours.items()}, out, metadata=about)
    call = ", ".join([repr(args.config), *(f"{key}={value!r}" for key, value in changes.items())])
    say(f"wrote {out}; read it with load_weights(published({call}), path)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
