"""Recorded results: they come back as they went in, with their origin, and what does not fit is refused."""

import time

import pytest
import torch

from sdelib import recorded
from sdelib.models import MLP


def write(where, data, **changes):
    settings = {"script": "tools/recorded/x.py", "config": {"steps": 3}, "seeds": [1], "started": time.time() - 36.0}
    return recorded.write("x", data, where=where, **settings | changes)


def test_a_record_comes_back_with_its_origin(tmp_path):
    net, other = (MLP(2, hidden=8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    write(tmp_path, {"loss": [0.123456789012, 2], "name": "a"}, weights={"net": net})
    record = recorded.read("x", where=tmp_path)
    assert record.data == {"loss": [0.12345679, 2], "name": "a"}  # floats to eight digits
    assert record.manifest["script"] == "tools/recorded/x.py"
    assert record.manifest["torch"] == torch.__version__
    assert record.manifest["hours"] == pytest.approx(0.01, abs=1e-3)
    record.load(other, "net")
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record 'y'; recorded are nothing"):
        recorded.read("y", where=tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant|nan"):
        write(tmp_path, [float("nan")])
    with pytest.raises(ValueError, match=r"weights: needs at most 1,000,000 bytes a file, 'net' has"):
        write(tmp_path, [1.0], weights={"net": MLP(2, hidden=512, depth=3)})
    assert not list(tmp_path.glob("*"))  # nothing half written is left
    write(tmp_path, [1.0], weights={"net": MLP(2, hidden=8)})
    with pytest.raises(ValueError, match="differ in name or shape"):
        recorded.read("x", where=tmp_path).load(MLP(2, hidden=16), "net")


def test_the_folder_is_the_clones(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").write_text("")
    monkeypatch.chdir(tmp_path / "notebooks")  # where a chapter runs
    assert recorded.folder() == tmp_path / "book" / "recorded"
