"""Builds `heatlens-client`, installs it alone, and asks a server with it: `python -m tests.client.distribution`.

Needs a package index. Says what an import takes, in processor time, beside that of what the client stands on.
"""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from statistics import median

from service.settings import Settings
from tests.api.test_contract import PNG
from tests.conftest import CATALOG, serving

FOLDER = Path(__file__).parents[2] / "service" / "client"
RUNS = 9
MOST = 1.3
BASE, OURS = "import httpx, numpy, pydantic", "from heatlens_client import AsyncClient, Client"
TIMED = "import time; {}; print(time.process_time())"
ASKING = """
import sys
from heatlens_client import Client
hl = Client(sys.argv[1])
found = hl.explain("grad-cam", sys.argv[2], targets=[1])
print(found, found.maps[0].values.shape, "torch" in sys.modules)
print(next(one for _, one in hl.explain_many("occlusion", [sys.argv[2]], window=8, stride=8)))
"""


def main() -> None:
    """Build, look into it, install, measure, ask.

    Raises:
        SystemExit: something is missing, or too slow.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(FOLDER))
        (wheel,) = folder.glob("heatlens_client-*.whl")
        held = {path for path in zipfile.ZipFile(wheel).namelist() if path.startswith("heatlens_client/")}
        there = {p for p in FOLDER.rglob("*") if p.suffix in (".py", ".pyi", ".typed") and "__pycache__" not in p.parts}
        assert held == {f"heatlens_client/{path.relative_to(FOLDER).as_posix()}" for path in there}
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        _run(python, "-m", "pip", "install", "-q", str(wheel))
        print(_run(python, "-m", "pip", "list", "--format=freeze"))
        picture = folder / "cat.png"
        picture.write_bytes(PNG)
        with serving(Settings(catalog=CATALOG, device="cpu")) as client:
            print(_run(python, "-W", "error", "-c", ASKING, str(client.base_url), str(picture)))
        base, ours = (_seconds(python, program) for program in (BASE, OURS))
        print(f"import: {ours:.3f} s, {ours / base:.2f} x {BASE!r} ({base:.3f} s)")
        if ours > MOST * base:
            sys.exit(f"more than {MOST} x")


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout


def _seconds(python: str, program: str) -> float:
    """Return the processor time of a program, the median of some runs."""
    return median(float(_run(python, "-c", TIMED.format(program))) for _ in range(RUNS))


if __name__ == "__main__":
    main()
