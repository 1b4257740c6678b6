"""The authors' checkpoints: which weights come out, what is refused and how it is told, and that nobody's code is run.

Files are made here in the form of the published ones, from the names and shapes of networks.json in the order that is theirs.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sdelib import VE, net_score
from sdelib.checkpoint import authors_layout, load_authors, load_weights, main, read_authors, save_weights
from sdelib.models import MLP, UNet, ddpmpp, ncsnpp, published
from tests.golden import ENTRIES, wave, weights
from tests.slow_unet import slow_unet

TINY = {"image_size": 8, "channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_at": (4,)}
CHANGES = ["image_size=8", "channels=8", "multipliers=1,2", "blocks=1", "attention_at=4"]
NETWORKS = {  # id of networks.json: what its configuration is beyond DDPM++
    "ncsnpp_ve": {"fir": (1, 3, 3, 1), "progressive_in": "residual", "time": "fourier"},
    "ddpmpp_vp": {},
    "ddpm_vp": {"block": "ddpm", "rescale": False, "groups": 32, "channels": 32},
    "ncsnpp_celebahq": {
        "fir": (1, 3, 3, 1), "progressive_in": "skip", "progressive_out": "skip", "time": "fourier"
    },
}  # fmt: skip


def tiny(name):
    return published(ENTRIES[f"net.tiny.{name}"]["inputs"]["config"], **TINY | NETWORKS[name])


def theirs(name):
    """(raw, averaged) weights by the authors' names; the average differs from the raw ones everywhere, and lacks the frozen W."""
    raw = {key: value.float() for key, value in weights(ENTRIES[f"net.tiny.{name}"]).items()}
    averaged = {
        key: 0.9 * value + 0.01 for key, value in raw.items() if not (key.endswith(".W") and key.count(".") == 2)
    }
    return raw, averaged


def published_form(name, *, prefix="module."):
    raw, averaged = theirs(name)
    moments = {i: {"step": 3, "exp_avg": torch.zeros_like(value)} for i, value in enumerate(averaged.values())}
    return {
        "optimizer": {"state": moments, "param_groups": [{"lr": 2e-4, "params": list(moments)}]},
        "model": {f"{prefix}sigmas": torch.linspace(50.0, 0.01, 10)}
        | {prefix + key: value for key, value in raw.items()},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": list(averaged.values())},
        "step": 1200,
    }


@pytest.fixture
def save(tmp_path):
    """Write a thing as torch does, and say where."""

    def saved(thing, *, zipped=True, name="checkpoint_8.pth"):
        torch.save(thing, tmp_path / name, _use_new_zipfile_serialization=zipped)
        return tmp_path / name

    return saved


def outputs(net):
    x, label = wave((2, 3, 8, 8)).float(), torch.tensor([0.5, 3.0])
    with torch.no_grad():
        return net.eval()(x, label)


def expected(name, given):
    x, label = wave((2, 3, 8, 8)), torch.tensor([0.5, 3.0]).double()
    return slow_unet({key: value.double() for key, value in given.items()}, x, label, **TINY | NETWORKS[name])[0]


def same(net, name, given):
    # float32 against float64, some hundred sums of roundings of 6e-8 in outputs of size 1
    torch.testing.assert_close(outputs(net).double(), expected(name, given), rtol=1e-4, atol=1e-4)


def state(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def untouched(net, before):
    return all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# --- which weights come out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("name", NETWORKS)
def test_averaged_weights_are_what_loads(name, zipped, save):
    """Against the slow network with the averaged weights; the frozen frequencies come from the model."""
    raw, averaged = theirs(name)
    net = tiny(name)
    assert load_authors(net, save(published_form(name), zipped=zipped)) is net
    same(net, name, raw | averaged)
    far = (expected(name, raw) - expected(name, raw | averaged)).abs().max()
    assert far > 1e-2  # so that the tolerance can tell them apart


@pytest.mark.parametrize("name", NETWORKS)
def test_raw_weights_on_request(name, save):
    net = load_authors(tiny(name), save(published_form(name)), ema=False)
    same(net, name, theirs(name)[0])


def test_a_bare_state_dictionary_with_or_without_module(save):
    raw, _ = theirs("ddpmpp_vp")
    for bare in (raw, {f"module.{key}": value for key, value in raw.items()}, {"sigmas": torch.ones(3)} | raw):
        path = save(bare)
        same(load_authors(tiny("ddpmpp_vp"), path, ema=False), "ddpmpp_vp", raw)
        with pytest.raises(ValueError, match=r"ema: this file holds no averaged weights; ema=False takes the raw ones"):
            load_authors(tiny("ddpmpp_vp"), path)


def test_the_order_is_the_files_own(save):
    """shadow_params has no names: it goes by the order of `model` in the same file, whatever our order is."""
    form = published_form("ncsnpp_ve", prefix="")
    form["model"] = dict(reversed(form["model"].items()))
    form["ema"]["shadow_params"].reverse()
    raw, averaged = theirs("ncsnpp_ve")
    same(load_authors(tiny("ncsnpp_ve"), save(form)), "ncsnpp_ve", raw | averaged)


def test_a_net_keeps_its_dtype_and_layout(save):
    path = save(published_form("ncsnpp_ve"))
    net = load_authors(tiny("ncsnpp_ve").double(), path)
    assert all(value.dtype == torch.float64 for value in net.state_dict().values())
    assert net.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(net.first.weight.float(), theirs("ncsnpp_ve")[1]["all_modules.3.weight"])
    assert all(p.requires_grad for p in net.parameters())


def test_what_is_read(save):
    file = read_authors(save(published_form("ncsnpp_ve")))
    raw, averaged = theirs("ncsnpp_ve")
    assert (file.step, file.ema_decay) == (1200, 0.999)
    assert list(file.weights) == ["sigmas", *raw]
    assert list(file.ema) == list(averaged)
    assert all(torch.equal(file.ema[key], value) for key, value in averaged.items())


# --- strictness ----------------------------------------------------------------------------------------------------


# each spoils raw weights, and says what the error has to say


def drop(raw):
    del raw["all_modules.3.Conv_0.bias"]
    return ["1 missing: all_modules.3.Conv_0.bias"]


def add(raw):
    raw["all_modules.99.weight"] = raw["extra"] = torch.ones(2)
    return ["2 left over: ", "all_modules.99.weight", "extra"]


def reshape(raw):
    raw["all_modules.2.weight"] = torch.ones(8, 1, 3, 3)
    return [r"1 of another shape: all_modules.2.weight \[8, 1, 3, 3\] instead of \[8, 3, 3, 3\]"]


def spoil(raw):
    raw["all_modules.0.bias"][3] = float("nan")
    raw["all_modules.2.weight"][0, 0, 0, 0] = float("inf")
    return ["2 not finite: all_modules.0.bias, all_modules.2.weight"]


def everything(raw):
    return [line for change in (drop, add, reshape, spoil) for line in change(raw) if "not finite" not in line] + [
        "not finite"
    ]


@pytest.mark.parametrize("change", [drop, add, reshape, spoil, everything])
def test_all_that_does_not_fit_is_named_and_the_net_stays(change, save):
    raw, _ = theirs("ddpmpp_vp")
    named = change(raw)
    net = tiny("ddpmpp_vp")
    before = state(net)
    for line in named:
        with pytest.raises(
            ValueError, match=f"^the checkpoint does not fit the network; of the authors' tensors, .*{line}"
        ):
            load_authors(net, save(raw), ema=False)
    assert untouched(net, before)


def test_another_architecture_is_told_by_its_names(save):
    net = tiny("ncsnpp_ve")
    before = state(net)
    with pytest.raises(
        ValueError, match=r"of the authors' tensors, \d+ missing: all_modules.0.W, .* and \d+ more; \d+ left over: "
    ):
        load_authors(net, save(published_form("ddpmpp_vp")))
    with pytest.raises(ValueError, match=r"of another shape: all_modules.0.W \[8\] instead of \[16\]"):
        load_authors(
            published("ve/cifar10_ncsnpp_continuous", **TINY | {"channels": 16}), save(published_form("ncsnpp_ve"))
        )
    assert untouched(net, before)


def test_averages_that_do_not_match_are_refused(save):
    form = published_form("ddpmpp_vp")
    form["ema"]["shadow_params"].pop()
    with pytest.raises(
        ValueError, match=r"needs one averaged tensor for each of the \d+ trainable ones, 'shadow_params' has \d+"
    ):
        load_authors(tiny("ddpmpp_vp"), save(form))
    form = published_form("ddpmpp_vp")
    form["ema"]["shadow_params"].reverse()
    with pytest.raises(ValueError, match=r"in the order and of the shapes of 'model', differ: all_modules.0.weight"):
        load_authors(tiny("ddpmpp_vp"), save(form))
    form = published_form("ddpmpp_vp")
    form["ema"]["shadow_params"][0] = torch.full_like(form["ema"]["shadow_params"][0], float("nan"))
    with pytest.raises(ValueError, match=r"1 not finite: all_modules.0.weight"):
        load_authors(tiny("ddpmpp_vp"), save(form))
    load_authors(tiny("ddpmpp_vp"), save(form), ema=False)  # the raw ones are fine


@pytest.mark.parametrize("change, message", [
    ({"ema": 3}, "needs 'ema' to hold the list 'shadow_params'"),
    ({"ema": {"shadow_params": torch.ones(3)}}, "needs 'ema' to hold the list 'shadow_params'"),
    ({"ema": {"shadow_params": [1.0] * 5}}, "needs 'shadow_params' to hold tensors"),
    ({"model": {}}, "needs 'model' to be a state dictionary of tensors"),
    ({"model": {"all_modules.0.weight": 1.0}}, "needs 'model' to be a state dictionary of tensors"),
    ({"step": [1]}, "needs 'step' to be a number, here it is a list"),
])  # fmt: skip
def test_other_forms_are_refused(change, message, save):
    with pytest.raises(ValueError, match=f"^path: {message}"):
        read_authors(save(published_form("ddpmpp_vp") | change))


def test_a_net_that_cannot_take_weights(save):
    path = save(published_form("ncsnpp_ve"))
    with pytest.raises(TypeError, match=r"^net: needs a UNet, got NetScore; a score's network is score.net$"):
        load_authors(net_score(tiny("ncsnpp_ve"), VE()), path)
    with pytest.raises(TypeError, match=r"^net: needs a UNet, got MLP$"):
        load_authors(MLP(2), path)
    with torch.device("meta"):
        meta = tiny("ncsnpp_ve")
    with pytest.raises(ValueError, match=r"^net: needs memory to put weights into; this one is on the meta device"):
        load_authors(meta, path)


# --- safety --------------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled as Python does, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("way", ["zip", "before torch 1.6", "pickle"])
def test_pickled_code_is_not_run(way, tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "trap.pth"
    trap = published_form("ddpmpp_vp") | {"step": Trap(sprung)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=way == "zip")
    net = tiny("ddpmpp_vp")
    before = state(net)
    with pytest.raises(ValueError, match="which was not run$") as caught:
        load_authors(net, path)
    assert not sprung.exists()
    assert untouched(net, before)
    assert "weights_only" not in str(caught.value)  # torch's own text goes on to tell how to run it all the same
    if way != "pickle":
        assert f"it asks for {os.mkdir.__module__}.mkdir" in str(caught.value)
    assert main([str(path)]) == 2
    assert not sprung.exists()
    with pytest.raises(FileExistsError):  # the trap is a trap: it does spring where code is run
        sprung.mkdir()
        torch.load(path, weights_only=False)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(zipped, save, tmp_path):
    """Cut off anywhere, or one byte changed: an error that names the file, or a file that still reads; never anything else."""
    small = {"model": {"module.all_modules.0.weight": torch.ones(3, 2)}, "step": 3}
    whole = save(small, zipped=zipped).read_bytes()
    path = tmp_path / "damaged.pth"
    for end in range(0, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:end])
        with pytest.raises(
            ValueError, match="^path: needs a torch file of plain tensors and containers, .*damaged.pth' is none"
        ):
            read_authors(path)
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        assert told(path) in ("it reads", "path: needs")


def told(path):
    """The first two words of an error of the kind that is promised; any other goes through."""
    try:
        read_authors(path)
    except ValueError as error:
        return " ".join(str(error).split()[:2])
    return "it reads"


def test_no_torch_file(tmp_path):
    for content in (b"", b"\x89PNG\r\n", b"step: 3\n", b"PK\x03\x04 and no more", b"\x80\x02]."):
        path = tmp_path / "other.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^path: needs a (torch file|dictionary)"):
            read_authors(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        read_authors(tmp_path / "gone.pth")
    with pytest.raises(OSError, match="directory|denied"):
        read_authors(tmp_path)


# --- safetensors ---------------------------------------------------------------------------------------------------


def test_weights_come_back_as_they_went(tmp_path):
    generator = torch.Generator().manual_seed(0)
    net = UNet(**TINY, time="fourier", generator=generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=generator)
    save_weights(net, tmp_path / "w.safetensors", made="here")
    other = load_weights(UNet(**TINY, time="fourier"), tmp_path / "w.safetensors")
    assert untouched(other, state(net))
    assert torch.equal(outputs(other), outputs(net))
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"made": "here"}


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_weights(MLP(2, hidden=8), tmp_path / "w.safetensors")
    net = MLP(2, hidden=16)
    before = state(net)
    with pytest.raises(
        ValueError, match=r"^path: needs the network's own tensors, differ in name or shape: .*layers.0.weight"
    ):
        load_weights(net, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"differ in name or shape: .* and \d+ more"):
        load_weights(MLP(2, depth=8), tmp_path / "w.safetensors")
    (tmp_path / "other").write_text("no weights")
    with pytest.raises(ValueError, match=r"^path: needs a safetensors file, .*other' is none"):
        load_weights(net, tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        load_weights(net, tmp_path / "gone")
    assert untouched(net, before)


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for call in (save_weights, load_weights):
        with pytest.raises(ImportError, match=r'pip install "sdelib\[train\]"'):
            call(MLP(2), tmp_path / "w")


# --- the command ---------------------------------------------------------------------------------------------------

NAME = "ve/cifar10_ncsnpp_continuous"


def command(path, *options, config=NAME):
    words = [str(path)]
    if config:
        words += ["--config", config, *(word for change in CHANGES for word in ("--change", change))]
    return main([*words, *options])


def test_listing(save, capsys, monkeypatch):
    """Every tensor with its shape, and which of the published networks it fits."""
    nets = {"one": (ncsnpp, TINY), "the same": (ncsnpp, TINY), "other": (ddpmpp, TINY)}
    for module in ("sdelib.checkpoint", "sdelib.models.zoo"):
        monkeypatch.setattr(f"{module}.PUBLISHED", nets)
    assert command(save(published_form("ncsnpp_ve")), config=None) == 0
    said = capsys.readouterr().out
    raw, averaged = theirs("ncsnpp_ve")
    numbers = sum(value.numel() for value in raw.values())
    assert f"checkpoint_8.pth: {len(raw) + 1} tensors, {numbers:,} numbers, step 1200\n" in said
    assert f"averaged weights of {len(averaged)} tensors, decay 0.999\n" in said
    assert "  all_modules.4.Conv_0.weight                  [8, 8, 3, 3]\n" in said
    assert said.endswith("fits: one, the same\n")
    assert command(save({"w": torch.ones(2)}), config=None) == 0
    said = capsys.readouterr().out
    assert "no averaged weights\n" in said
    assert said.endswith("fits: none of the published configurations\n")


def test_checking_writes_nothing(save, capsys):
    path = save(published_form("ncsnpp_ve"))
    assert command(path, "--check", "--names") == 0
    said = capsys.readouterr().out
    net = tiny("ncsnpp_ve")
    numbers = sum(value.numel() for value in net.state_dict().values())
    assert f"fits {NAME}: {len(net.state_dict())} tensors, {numbers:,} numbers, averaged weights\n" in said
    assert all(entry.name in said and ", ".join(entry.sources) in said for entry in authors_layout(net))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("raw", [False, True])
def test_converting(raw, save, capsys):
    """What is written loads into the same network with the same outputs as the authors' file itself."""
    path = save(published_form("ncsnpp_ve"))
    assert command(path, *["--raw"] * raw) == 0
    written = path.with_suffix(".safetensors")
    said = capsys.readouterr().out
    assert (
        f"wrote {written}; read it with load_weights(published('{NAME}', image_size=8, channels=8, multipliers=(1, 2),"
        in said
    )
    net = load_weights(tiny("ncsnpp_ve"), written)
    assert torch.equal(outputs(net), outputs(load_authors(tiny("ncsnpp_ve"), path, ema=not raw)))
    with safe_open(written, "pt") as file:
        assert file.metadata() == {
            "config": NAME, "changes": " ".join(CHANGES), "weights": "raw" if raw else "averaged", "step": "1200"
        }  # fmt: skip


def test_nothing_is_written_over(save, capsys, tmp_path):
    path, out = save(published_form("ncsnpp_ve")), tmp_path / "weights.safetensors"
    out.write_text("mine")
    assert command(path, "--out", str(out)) == 2
    assert "exists already; --force writes over it, --out names another file" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert command(path, "--out", str(out), "--force") == 0
    load_weights(tiny("ncsnpp_ve"), out)


@pytest.mark.parametrize("options, status, said", [
    (["--change", "channels=16"], 1, "the checkpoint does not fit the network"),
    (["--change", "channels"], 2, "--change: needs KEY=VALUE, such as channels=64, got 'channels'"),
    (["--change", "width=3"], 2, "unexpected keyword argument 'width'"),
    (["--change", "blocks=none"], 2, "blocks: needs a whole number of blocks"),
    (["--out", "gone/x.safetensors"], 2, "--out: needs a folder that exists, 'gone' does not"),
])  # fmt: skip
def test_bad_commands(options, status, said, save, capsys):
    assert command(save(published_form("ncsnpp_ve")), *options) == status
    assert said in capsys.readouterr().err
    assert command("gone.pth", *options) == 2


def test_commands_without_a_network(save, capsys):
    path = save(published_form("ncsnpp_ve"))
    for options in (["--check"], ["--names"], ["--out", "x"], ["--change", "blocks=1"]):
        assert command(path, *options, config=None) == 2
        assert f"{options[0]}: needs --config" in capsys.readouterr().err
    assert main([str(path), "--config", "ve/cifar10_ncsnpp_continous"]) == 2
    assert "did you mean 've/cifar10_ncsnpp_continuous'?" in capsys.readouterr().err
    assert main([str(path.parent / "gone.pth")]) == 2
    assert "gone.pth" in capsys.readouterr().err


def test_changes_are_arguments(save):
    """The words of --change become numbers, truth values, None and tuples."""
    from sdelib.checkpoint import _changes

    words = (
        "channels=8 multipliers=1,2 attention_at=4 fir=none rescale=false fourier_scale=0.5 time=fourier fir=1,3,3,1"
    )
    assert _changes(words.split()[:7]) == {
        "channels": 8, "multipliers": (1, 2), "attention_at": (4,), "fir": None, "rescale": False, "fourier_scale": 0.5,
        "time": "fourier",
    }  # fmt: skip
    assert _changes(words.split()[7:]) == {"fir": (1, 3, 3, 1)}


def test_as_a_process(save):
    """`python -m sdelib.checkpoint` as a reader types it."""
    path = save(published_form("ncsnpp_ve"))
    words = [sys.executable, "-m", "sdelib.checkpoint", str(path), "--config", NAME]
    words += [word for change in CHANGES for word in ("--change", change)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    net = load_weights(tiny("ncsnpp_ve"), path.with_suffix(".safetensors"))
    same(net, "ncsnpp_ve", theirs("ncsnpp_ve")[0] | theirs("ncsnpp_ve")[1])
