"""Holds the client's types against a type checker: `python -m tests.client.checking`.

Not part of the suite, as mypy takes half a minute for all that a test of it would import.
"""

import sys
import tempfile
from pathlib import Path

from mypy import api

PROGRAM = """
import numpy as np
from service.client import AsyncClient, Client, Explanation, Predictions

hl = Client()
e = hl.explain("occlusion", "cat.jpg", window=48, targets=["tabby"], colormap="viridis")
reveal_type(e)  # Explanation
reveal_type(e.maps[0].values)  # ndarray
hl.explain("filters", steps=3)
hl.explain("occlusion", b"", windw=48)  # error
hl.explain("occlusion", b"", window="48")  # error
hl.explain("occlusion")  # error
hl.explain("score-cam", np.zeros((3, 3, 3), np.uint8), baseline="nothing")  # error
name: str = input()
hl.explain(name, "cat.jpg", params={"window": 3}, opacity=0.3)
hl.explain(name, "cat.jpg", window=3)  # error
with hl.watch("score-cam", "cat.jpg", layer="blocks.10") as run:
    for p in run:
        reveal_type(p.rows_done)  # int
    reveal_type(run.result)  # Explanation
reveal_type(hl.predict("cat.jpg"))  # Predictions


async def ask(ahl: AsyncClient) -> None:
    reveal_type(await ahl.explain("cam", "cat.jpg"))  # Explanation
    await ahl.explain("cam", "cat.jpg", window=3)  # error
    async with ahl.watch("cam", "cat.jpg") as run:
        async for p in run:
            reveal_type(p.seconds_left)  # float | None
    async for path, found in ahl.explain_many("cam", ["a.jpg"]):
        reveal_type(found)  # Explanation
"""


def main() -> None:
    """Check the program above, and say where mypy sees something else than its comments."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(PROGRAM)
        said, trouble, _ = api.run(["--strict", "--no-incremental", str(path)])
    found: dict[int, str] = {}
    for line in said.splitlines():
        place, _, message = line.partition(": ")
        if place.startswith(str(path)):
            found.setdefault(int(place.rpartition(":")[2]), message)
    wrong = [trouble] if trouble else []
    for i, line in enumerate(PROGRAM.splitlines(), 1):
        expected = line.partition("  # ")[2]
        if (expected not in found.get(i, "")) if expected else i in found:
            wrong.append(f"line {i}: {line.strip()}\n    mypy: {found.get(i, 'nothing')}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
