"""What the README shows works: its Python runs and samples the law that it says, its commands exist."""

import re
from pathlib import Path

import pytest
import torch

from tools import lab

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S))


def test_python_block_samples_the_law(untouched, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out.count("loss") == 5

    x, law = names["x"].double(), names["law"]
    assert x.shape == (2000, 2)
    assert torch.isfinite(x).all()
    # Truth: moments of the mixture. Margins: 0.12 on means is four standard errors of 2,000 points; 0.2 on covariances and
    # 0.08 on weights leave room for a network of 1,000 steps (seen: 0.08 and 0.02), not for a wrong sign, scale or time.
    mean = (law.weights[:, None] * law.means).sum(0)
    second = law.covs + law.means[:, :, None] * law.means[:, None, :]
    cov = (law.weights[:, None, None] * second).sum(0) - mean[:, None] * mean
    assert torch.allclose(x.mean(0), mean.double(), rtol=0, atol=0.12)
    assert torch.allclose(torch.cov(x.T), cov.double(), rtol=0, atol=0.2)
    nearest = torch.cdist(x, law.means.double()).argmin(1).bincount(minlength=3) / len(x)
    exact = (
        torch.cdist(law.sample(100_000, generator=names["g"]).double(), law.means.double()).argmin(1).bincount()
        / 100_000
    )
    assert torch.allclose(nearest, exact, rtol=0, atol=0.08)
    # A point drawn from the law has mean log-density -1.74; one Gaussian of the same mean and covariance comes out at -6.6.
    assert law.log_prob(names["x"]).mean() > law.log_prob(law.sample(20_000, generator=names["g"])).mean() - 0.3


def test_commands_exist_in_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))
    assert {"book", "test", "lab", "help"} <= named
    assert named <= targets


def test_jupyterlab_starts_where_it_sees_both_twins(tmp_path):
    """A server that starts in notebooks/ cannot reach book/: what is saved there would leave the text behind."""
    assert f"--ServerApp.root_dir={ROOT}" in lab.command([])

    import nbformat
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    for folder in ("book", "notebooks"):
        (tmp_path / folder).mkdir()
    stem = "ch01_scores_langevin"
    for twin in (f"book/{stem}.md", f"notebooks/{stem}.ipynb", "pyproject.toml"):
        (tmp_path / twin).write_bytes((ROOT / twin).read_bytes())
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(tmp_path))
    model = manager.get(f"notebooks/{stem}.ipynb")
    model["content"]["cells"].append(nbformat.v4.new_markdown_cell("A sentence saved from JupyterLab."))
    manager.save(model, f"notebooks/{stem}.ipynb")
    assert "A sentence saved from JupyterLab." in (tmp_path / f"book/{stem}.md").read_text(encoding="utf-8")


def test_plain_commands_are_those_behind_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    unix, windows = (re.search(rf"^```{kind}\n(.*? -m venv .*?)^```", README, re.M | re.S) for kind in ("sh", "bat"))
    unix = [line.split("#")[0].strip() for line in unix[1].splitlines() if line.startswith((".venv", "python"))]
    windows = [line.split("#")[0].strip() for line in windows[1].splitlines()]
    assert [line.removeprefix("python3") for line in unix[:1]] == [line.removeprefix("py -3") for line in windows[:1]]
    for one, other in zip(unix[1:], windows[1:], strict=True):
        assert one.replace("/", "\\").replace("bin", "Scripts") == other.replace("/", "\\")  # URLs keep their slashes
        argument = one.removeprefix(".venv/bin/python ")
        assert argument.removeprefix("-m pip install ") in makefile


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|txt|yml|cff|md)|\w+/)`", README))))
def test_paths_of_the_map_exist(path):
    assert (ROOT / path).exists() or (ROOT / "sdelib" / path).exists()


def test_picture_is_there_and_described():
    ((words, path),) = re.findall(r"!\[(.*?)\]\((.*?)\)", README, re.S)
    assert (ROOT / path).is_file()
    assert len(words) > 100
