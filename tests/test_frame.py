"""The frame holds together: pins, ranges and doors agree, the commands do what they say, the floors bite."""

import importlib.metadata
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import sdelib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {}
    for requirement in found:
        (clause,) = requirement.specifier
        assert clause.operator == "==", f"{requirement} is no pin"
        assert not requirement.extras and requirement.marker is None, f"{requirement} is more than a pin"
        pinned[canonicalize_name(requirement.name)] = Version(clause.version)
    assert len(pinned) == len(found), "a package is pinned twice"
    return pinned


def direct() -> list[Requirement]:
    """Every requirement of the library and of its extras, but for extras that name other extras."""
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [r for r in map(Requirement, lines) if r.name != "sdelib"]


# ---------------------------------------------------------------- pins, ranges, doors
def test_every_direct_dependency_is_pinned_within_its_range():
    pinned = pins()
    for requirement in direct():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt does not pin {name}: run `make pins`"
        assert pinned[name] in requirement.specifier, f"pin {name}=={pinned[name]} is outside {requirement}"


def test_every_transitive_dependency_is_pinned():
    """Walk what the installed packages ask for here, and find each in constraints.txt at the installed version."""
    pinned, seen, missing = pins(), set(), []
    todo = [(r, frozenset(r.extras)) for r in direct()]
    while todo:
        requirement, extras = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's, or an extra that is not installed here: no pin to compare with
        if re.match(r"nvidia-|cuda-|triton", name):
            continue  # left to the build of torch
        if pinned.get(name) != Version(Version(found.version).public):
            missing.append(f"{name}=={found.version} is installed, constraints.txt has {pinned.get(name)}")
        for line in found.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in (extras or {""})):
                todo.append((needed, frozenset(needed.extras)))
    assert not missing, missing
    assert len(seen) > 100, "the walk ended early"


def test_pins_leave_the_build_of_torch_open():
    names = pins()
    assert names["torch"] == Version("2.13.0")
    assert all(version.local is None for version in names.values())
    assert not [n for n in names if re.match(r"nvidia|cuda|triton|pytorch-triton", n)]
    # torchvision as published for this torch fails to import and breaks others by its mere presence
    assert not {"torchvision", "torch-fidelity"} & names.keys()


def test_library_alone_needs_five_packages():
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "torchdiffeq", "tqdm", "jaxtyping"}
    assert Requirement(PROJECT["dependencies"][0]).specifier == SpecifierSet(">=2.9")


def test_extras_refer_to_extras_that_exist():
    for name, extra in EXTRAS.items():
        for requirement in map(Requirement, extra):
            if requirement.name == "sdelib":
                assert requirement.extras <= EXTRAS.keys() - {name}


def test_conda_door_leads_to_the_same_pins():
    door = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, inner = door["dependencies"]
    assert [re.split(r"[=<>]", c)[0] for c in conda] == ["python", "pip"], "everything else is pip's"
    python = conda[0].partition("=")[2]
    assert Version(python) in SpecifierSet(PROJECT["requires-python"])
    constraints, editable = inner["pip"]
    assert constraints == "-c constraints.txt"
    assert set(re.fullmatch(r"-e \.\[(.+)\]", editable)[1].split(",")) <= EXTRAS.keys()
    assert editable.removeprefix("-e ") in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_supported_pythons_are_told_once():
    supported = SpecifierSet(PROJECT["requires-python"])
    listed = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert listed == {f"3.{minor}" for minor in range(30) if Version(f"3.{minor}") in supported}
    named = set(re.findall(r"python(3\.\d+) ", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert listed <= named


# ---------------------------------------------------------------- the package
def test_version_is_told_once():
    assert importlib.metadata.version("sdelib") == sdelib.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sdelib.__version__
    assert f"## [{sdelib.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_types_are_shipped():
    assert (Path(sdelib.__file__).parent / "py.typed").exists()


ALPHABET = """
    Data Time PerItem ScoreFn Drift Diffusion Step Stepped Constraint bcast randn_like time_grid
    Noising SDE VE VP SubVP Ito Chain smld ddpm linear_betas geometric_sigmas
    Gaussian GaussianMixture NetScore net_score grad_of guided denoised value_and_divergence divergence
    dsm explicit sliced finite_difference reverse reverse_general
    identity euler_maruyama stochastic_runge_kutta reverse_diffusion ancestral langevin annealed_langevin hmc then project
    simulate Path train flow Flow log_likelihood Likelihood dequantise bits_per_dim grey_basis observe classifier_score
""".split()


def test_every_name_of_the_alphabet_that_exists_imports_from_the_top():
    modules = [info.name for info in pkgutil.iter_modules(sdelib.__path__)]
    for module in modules:
        __import__(f"sdelib.{module}")
    defined = {n for m in modules for n in vars(sys.modules[f"sdelib.{m}"]) if n in ALPHABET}
    assert defined <= set(sdelib.__all__), sorted(defined - set(sdelib.__all__))
    assert all(hasattr(sdelib, name) for name in sdelib.__all__)
    assert len(defined) > 40


def test_no_module_bears_the_name_of_something_exported():
    """A function of its module's name would hide the module; `divergence` and `train` alone do, and the function is meant."""
    modules = {info.name for info in pkgutil.iter_modules(sdelib.__path__)}
    assert modules & set(sdelib.__all__) <= {"divergence", "train"}
    assert not [name for name in sdelib.__all__ if inspect.ismodule(getattr(sdelib, name))]


def test_import_takes_no_extra():
    """Every module imports where the extras are not installed, and importing sdelib is quiet about pictures."""
    code = """
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"matplotlib", "sklearn", "scipy", "IPython", "ipywidgets", "safetensors", "beartype"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import sdelib
for info in pkgutil.walk_packages(sdelib.__path__, "sdelib."):
    importlib.import_module(info.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- floors
def lint_imports(root: Path) -> subprocess.CompletedProcess:
    program = Path(sys.executable).parent / "lint-imports"
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    return subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=root, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "module, line",
    [
        ("ops.py", "from sdelib import simulation"),
        ("sde.py", "import sdelib.losses"),
        ("score.py", "import sdelib.steps"),
        ("models/mlp.py", "import sdelib.sde"),
        ("simulation.py", "import sdelib.plot"),
    ],
)
def test_floors_bite(tmp_path, module, line):
    shutil.copytree(ROOT / "sdelib", tmp_path / "sdelib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / "sdelib" / module
    planted.write_text(planted.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    stem = "sdelib." + module.removesuffix(".py").replace("/", ".")
    assert re.search(rf"{re.escape(stem)} -> sdelib\.\w+", done.stdout), done.stdout


def test_a_module_on_no_floor_is_noticed(tmp_path):
    shutil.copytree(ROOT / "sdelib", tmp_path / "sdelib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "sdelib" / "attic.py").touch()
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "attic" in done.stdout


# ---------------------------------------------------------------- commands
@pytest.fixture
def workshop(tmp_path):
    """A copy of the Makefile beside a .venv whose python only writes down what it is asked to do."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# A page\n", encoding="utf-8")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@" >> asked\n', encoding="utf-8")
    python.chmod(0o755)
    return tmp_path


def make(where: Path, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
    """Exit status, output, and what python was asked for."""
    log = where / "asked"
    log.write_text("", encoding="utf-8")
    quiet = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "FORCE")}
    quiet |= {"CI": "", "SDELIB_REQUIRE_BROWSER": "", "CHROMIUM": ""} | environment
    done = subprocess.run(["make", *arguments], cwd=where, env=quiet, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, log.read_text(encoding="utf-8").splitlines()


def later(path: Path) -> None:
    """Change a file as an editor would, later than anything made so far."""
    stamp = time.time() + 3600
    os.utime(path, (stamp, stamp))


needs_make = pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="no make here")


@needs_make
def test_second_make_does_no_needless_work(workshop):
    status, output, asked = make(workshop, "book")
    assert status == 0, output
    assert [a.split()[:3] for a in asked] == [["-m", "pip", "install"], ["tools/site.py", "build"]]
    assert "-c constraints.txt" in asked[0]
    assert f"Open file://{workshop / '_build' / 'html' / 'index.html'}" in output

    assert make(workshop, "book")[2] == []

    later(workshop / "book" / "index.md")
    assert [a.split()[0] for a in make(workshop, "book")[2]] == ["tools/site.py"]


@needs_make
def test_new_pins_are_installed(workshop):
    make(workshop, "book")
    later(workshop / "constraints.txt")
    assert make(workshop, "book")[2][0].startswith("-m pip install")


@needs_make
def test_a_failed_build_is_tried_again(workshop):
    python = workshop / ".venv" / "bin" / "python"
    good = python.read_text(encoding="utf-8")
    python.write_text(good + '[ "$1" != tools/site.py ]\n', encoding="utf-8")
    assert make(workshop, "book")[0] != 0
    python.write_text(good, encoding="utf-8")
    assert [a.split()[0] for a in make(workshop, "book")[2]] == ["tools/site.py"]


@needs_make
def test_help_is_the_default_and_lists_the_commands(workshop):
    status, output, asked = make(workshop)
    assert status == 0
    assert asked == []
    for command in ("book", "test", "lab", "notebooks", "bench", "recorded", "clean"):
        assert re.search(rf"^  {command} +\S", output, re.M), output


@needs_make
def test_force_reaches_the_executor(workshop):
    assert make(workshop, "notebooks")[2][-1] == "tools/execute.py"
    assert make(workshop, "notebooks", "FORCE=1")[2][-1] == "tools/execute.py --force"


@needs_make
def test_recorded_says_when_there_is_none(workshop):
    assert "nothing is recorded yet" in make(workshop, "recorded")[1]


@needs_make
def test_a_missing_browser_is_one_visible_line_or_a_failure(workshop):
    programs = workshop / "programs"
    programs.mkdir()
    for name in ("sh", "find", "touch", "mkdir", "echo"):
        (programs / name).symlink_to(shutil.which(name))
    (programs / "make").symlink_to(shutil.which("make"))
    make(workshop, "book")
    status, output, asked = make(workshop, "browser", PATH=str(programs))
    assert status == 0, output
    assert [line for line in output.splitlines() if "browser" in line and "==" not in line] == [
        "SKIPPED: no browser (chromium, google-chrome or CHROMIUM=path): the pages were not opened"
    ]
    assert asked == []
    # where one is required, the tests themselves are run, and fail for want of it
    for demand in ({"CI": "true"}, {"SDELIB_REQUIRE_BROWSER": "1"}):
        assert make(workshop, "browser", PATH=str(programs), **demand)[2] == [
            "-m pytest -n 2 --dist worksteal tests/book -m browser"
        ]
    (programs / "chromium").symlink_to("/bin/true")
    assert make(workshop, "browser", PATH=str(programs))[2] == ["-m pytest -n 2 --dist worksteal tests/book -m browser"]


@needs_make
def test_missing_python_is_named(workshop):
    shutil.rmtree(workshop / ".venv")
    status, output, _ = make(workshop, "book", "PYTHON=no-such-python")
    assert status != 0
    assert "No Python 3.11 to 3.13" in output
    assert "no-such-python" in output


@needs_make
def test_stages_run_in_the_order_they_are_numbered():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    stages = re.search(r"^test: (.*?) ##", text, re.M)[1].split()
    numbers = [re.search(rf'^{stage}:.*\n\t@echo "== (\d+)/{len(stages)} ', text, re.M)[1] for stage in stages]
    assert numbers == [str(i + 1) for i in range(len(stages))]
    assert stages[-1] == "browser", "pytest's summary closes the run"


# ---------------------------------------------------------------- what a repository may carry
def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("no git checkout: nothing to list")
    return [p for name in done.stdout.split("\0") if name and (p := ROOT / name).is_file()]


def test_no_file_speaks_of_one_machine():
    # Spelt in two halves, so that this file may stand among those it reads.
    foreign = [
        "/wo" + "rk/",
        "/ro" + "ot/",
        "../sha" + "red",
        "/opt/whe" + "els",
        "download.py" + "torch.org",
        "pypi" + ".org",
    ]
    found = []
    for path in tracked():
        if "vendor" in path.parts or path.suffix in {".png", ".ico", ".woff", ".woff2", ".safetensors"}:
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in foreign if word in text]
    assert not found


def test_no_file_is_heavy():
    heavy = [str(p.relative_to(ROOT)) for p in tracked() if p.stat().st_size > 1_500_000 and "vendor" not in p.parts]
    assert not heavy
    pictures = [str(p.relative_to(ROOT)) for p in tracked() if p.suffix == ".png" and p.stat().st_size > 150_000]
    assert not pictures


def test_third_parties_are_named():
    vendor = ROOT / "book" / "_static" / "vendor"
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for path in vendor.iterdir() if vendor.exists() else []:
        assert path.name in text, f"{path.name} is vendored and not in THIRD_PARTY.md"
