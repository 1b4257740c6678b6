"""Recorded results: what takes too long to compute while a chapter runs, made by a committed script, loaded with its origin.

A script under ``tools/recorded/`` computes a table, and weights if need be, and ends with :func:`write`; ``make recorded`` runs
them all. A chapter lists the files under ``inputs:`` in its header, calls :func:`read`, computes a stated small part again and
asserts that both agree. Each file carries a manifest: the script, the library's commit, the configuration, the seeds, the
machine, the hours, torch's version.

One record is ``book/recorded/NAME.json``; its weights are ``book/recorded/NAME.KEY.safetensors``, at most 1 MB each.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import sdelib
from sdelib.checkpoint import load_weights, save_weights

MEGABYTE = 1_000_000


class Record(NamedTuple):
    """A recorded result: ``data`` (plain numbers, lists, dictionaries), its ``manifest``, and where it lies."""

    name: str
    data: Any
    manifest: dict[str, Any]
    folder: Path

    def load(self, net: nn.Module, key: str) -> nn.Module:
        """Put the weights recorded under ``key`` into ``net``, a network of the same make.

        Raises:
            FileNotFoundError: if this record has no such weights.
            ValueError: if names or shapes are not the network's.
        """
        return load_weights(net, self.folder / f"{self.name}.{key}.safetensors")


def folder() -> Path:
    """``book/recorded`` of the clone that this runs in: that of the working directory, else that of the library.

    Raises:
        FileNotFoundError: if neither lies in a clone of the book.
    """
    here = Path.cwd()
    for root in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (root / "book").is_dir() and (root / "_toc.yml").is_file():
            return root / "book" / "recorded"
    raise FileNotFoundError("book/recorded: needs a clone of the book around the working directory, found none")


def read(name: str, *, where: Path | None = None) -> Record:
    """The record called ``name``, from the folder ``where`` (the clone's ``book/recorded``).

    Raises:
        FileNotFoundError: if there is no such record.
    """
    where = where or folder()
    path = where / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in where.glob("*.json"))) or "nothing"
        raise FileNotFoundError(f"name: no record {name!r}; recorded are {known}. `make recorded` makes them")
    content = json.loads(path.read_text(encoding="utf-8"))
    return Record(name, content["data"], content["manifest"], where)


def write(
    name: str,
    data: Any,
    *,
    script: str,
    config: Mapping[str, Any],
    seeds: list[int],
    started: float,
    weights: Mapping[str, nn.Module] | None = None,
    where: Path | None = None,
) -> Path:
    """Store a result with its manifest, and weights beside it.

    Args:
        name: of the record, for example ``"ch14_ablation"``.
        data: what ``json`` can hold; floats are stored to 8 digits.
        script: the file that made it, as ``tools/recorded/NAME.py``.
        config: what was set: networks, steps, batch sizes.
        seeds: all of them.
        started: ``time.time()`` when the run began.
        weights: modules whose state is stored, by key.
        where: the folder; the clone's ``book/recorded`` if not given.

    Raises:
        ValueError: if a file of weights is larger than 1 MB, or a number in ``data`` is not finite.
    """
    where = where or folder()
    where.mkdir(parents=True, exist_ok=True)
    manifest = {
        "script": script,
        "commit": _commit(),
        "config": dict(config),
        "seeds": seeds,
        "hardware": hardware(),
        "hours": round((time.time() - started) / 3600, 4),
        "torch": torch.__version__,
        "sdelib": sdelib.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    for key, net in (weights or {}).items():
        path = where / f"{name}.{key}.safetensors"
        save_weights(net, path, script=script)
        if path.stat().st_size > MEGABYTE:
            size = path.stat().st_size
            path.unlink()
            raise ValueError(f"weights: needs at most {MEGABYTE:,} bytes a file, {key!r} has {size:,}")
    text = json.dumps({"manifest": manifest, "data": _rounded(data)}, indent=1, allow_nan=False) + "\n"
    path = where / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    return path


class Options(NamedTuple):
    """What a script was asked: ``quick``, a few steps of everything, and the folder ``where`` to write to."""

    quick: bool
    where: Path | None


def options(doc: str | None, arguments: list[str] | None = None) -> Options:
    """Read ``--quick`` and ``--where DIR``, which every recording script takes.

    Args:
        doc: the script's docstring; its first line describes the command.
        arguments: of the command line; ``None`` takes the program's own.

    Raises:
        SystemExit: for other arguments, or ``--quick`` without ``--where``: it must not overwrite the record.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of everything; needs --where")
    parser.add_argument("--where", type=Path, help="folder to write to (default: book/recorded)")
    args = parser.parse_args(arguments)
    if args.quick and args.where is None:
        parser.error("--quick needs --where: it must not overwrite the record")
    return Options(args.quick, args.where)


def hardware() -> str:
    """The processor, or the GPU where there is one, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} thread(s) of {platform.processor() or platform.machine()}, {platform.system()}"


def _commit() -> str:
    """The commit of the library that ran, with "+changes" where the library differs from it."""
    try:
        here = Path(__file__).resolve().parent
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(here), *words], check=True, capture_output=True, text=True
        ).stdout.strip()
        changed = run("status", "--porcelain", "--untracked-files=no", ".")
        return run("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _rounded(data: Any) -> Any:
    if isinstance(data, float):
        return float(f"{data:.8g}")
    if isinstance(data, Mapping):
        return {str(key): _rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value) for value in data]
    return data
