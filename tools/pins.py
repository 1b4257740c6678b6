"""Write constraints.txt: every package that .venv holds, at the version it holds.

A pin names a version and no build: the part after "+" (a CPU build of torch, say) is dropped, for PEP 440 lets
`torch==2.13.0` match any build of it. NVIDIA's libraries and triton come along with some builds of torch and are left to it.
"""

import re
from importlib.metadata import distributions
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
OUR_OWN = {"sdelib", "pip"}
LEFT_TO_TORCH = re.compile(r"^(nvidia-.*|cuda-.*|triton.*|pytorch-triton.*)$")
HEADER = """\
# Every direct and transitive package of sdelib[book,test,train], as tried with Python 3.11 on Linux.
# Made by `make pins`. Used as `pip install -c constraints.txt ...`: it limits versions and installs nothing by itself,
# so packages that only other platforms need stay free. torch carries no build suffix on purpose: any build of it will do.
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    held = {canonical(d.metadata["Name"]): d.version.partition("+")[0] for d in distributions()}
    return {n: v for n, v in sorted(held.items()) if n not in OUR_OWN and not LEFT_TO_TORCH.match(n)}


def main() -> None:
    lines = [f"{name}=={version}\n" for name, version in pins().items()]
    TARGET.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{TARGET.name}: {len(lines)} pins")


if __name__ == "__main__":
    main()
