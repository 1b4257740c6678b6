"""Open JupyterLab on the chapters: `python tools/lab.py [options of jupyter lab]`.

A double click on a chapter's text (book/chNN_name.md) opens it as a notebook, and JupyterLab asks no other host for
news: tools/jupyter/ holds these settings. They count for this server only; nothing is written outside the project, and
what a reader has set for themselves goes first.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "tools" / "jupyter"


def command(options: list[str], root: Path = ROOT) -> list[str]:
    # From the project's root: a server in notebooks/ cannot reach the text twins in book/ and would not save them.
    where = [f"--ServerApp.root_dir={root}", "--LabApp.default_url=/lab/tree/notebooks"]
    return [sys.executable, "-m", "jupyterlab", *where, *options]


def environment() -> dict[str, str]:
    paths = [str(SETTINGS), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths))}


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run(command(sys.argv[1:]), cwd=ROOT, env=environment(), check=False).returncode)
    except KeyboardInterrupt:  # the server has heard it, too, and asks or stops
        sys.exit(130)
