"""Writes which versions are installed: `python -m tests.lock`, with uv at hand (`pip install uv`).

`requirements.lock` is the server alone, for every platform, each file with its hash. `docker/constraints.txt` is the
server with everything that an extra brings but `protocols`, without hashes: an image takes PyTorch from an index of its
own, whose files have others. Both hold the newest versions that the floors of `pyproject.toml` and each other allow, so
that this is also how they are brought up to date.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK, CONSTRAINTS = ROOT / "requirements.lock", ROOT / "docker" / "constraints.txt"
COMMAND = ("uv", "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate", "--python-version", "3.11")


def write(path: Path, about: str, *options: str, project: Path = ROOT / "pyproject.toml") -> None:
    """Write one list."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found"
        subprocess.run([*COMMAND, *options, str(project), "--output-file", str(found)], check=True)
        path.write_text(f"# {about}: python -m tests.lock\n{found.read_text()}")


def main() -> None:
    """Write both; what is said on the command line goes to uv."""
    own = sys.argv[1:]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    # Those clients are for an environment of their own, and would hold back what others take.
    named = [f"--extra={name}" for name in extras if name != "protocols"]
    write(CONSTRAINTS, "Versions of the server and its extras", *named, "--no-emit-package", "heatlens", *own)
    write(LOCK, "The server alone", "--generate-hashes", "--constraints", str(CONSTRAINTS), *own)


if __name__ == "__main__":
    main()
