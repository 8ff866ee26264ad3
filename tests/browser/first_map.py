"""Prints how long the page takes from a dropped picture to its first map, beside curl with the same question.

    python -m tests.browser.first_map [--rounds N] [--most RATIO]

Both take turns in one run, each with pictures that nobody has asked about before, so that the machine's other work
falls on both alike: read the ratio. With `--most` a larger ratio ends in an error. Needs what the browser's tests need,
and curl.
"""

import argparse
import base64
import io
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from service.settings import Settings
from tests.browser.test_page import CHROMIUM
from tests.conftest import photograph, serving

# From the drop until a map is painted, by the page's own clock: what looks on waits for nothing but that.
DROP = """async ([data, name, type]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const before = document.querySelector(".canvas canvas");
  const painted = new Promise((done) => {
    const put = CanvasRenderingContext2D.prototype.putImageData;
    CanvasRenderingContext2D.prototype.putImageData = function (...what) {
      put.apply(this, what);
      if (this.canvas.parentElement?.matches(".canvas") || this.canvas.width === 224) {
        CanvasRenderingContext2D.prototype.putImageData = put;
        done(performance.now());
      }
    };
  });
  const started = performance.now();
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
  const ended = await painted;
  const seen = () => performance.getEntriesByType("resource").filter((one) => one.name.includes("/explain/"))
    .filter((one) => one.startTime >= started).pop();
  while (!seen()) await new Promise((go) => setTimeout(go, 5)); // it is written down when the stream has ended
  const asked = seen();
  return [ended - started, asked.requestStart - started, asked.responseEnd - started];
}"""


def pictures(count: int, kind: str, size: tuple[int, int]) -> list[bytes]:
    """Return files of a photograph, each with noise of its own."""
    plain = np.asarray(photograph("chelsea").convert("RGB").resize(size), np.int16)
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        noisy = np.clip(plain + random.integers(-3, 4, plain.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(buffer := io.BytesIO(), kind, quality=90)
        found.append(buffer.getvalue())
    return found


def main() -> None:
    """Take turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--most", type=float)
    options = parser.parse_args()
    worst = 0.0
    print("| Picture | Page: first map | request sent after | answer there after | curl | Ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    with (
        serving(Settings(device="cpu", tune=False, verify=False)) as server,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as folder,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        url = str(server.base_url).rstrip("/")
        for kind, size in (("JPEG", (451, 300)), ("JPEG", (3000, 2000))):
            page = browser.new_page()
            page.goto(url)
            page.get_by_role("heading", level=1).wait_for()
            shown: list[list[float]] = []
            asked: list[float] = []
            ratios: list[float] = []
            made = pictures(2 * (options.rounds + 2), kind, size)
            for i in range(options.rounds + 2):  # the first two are not counted: everything is new to both
                path = Path(folder) / "picture.jpg"
                path.write_bytes(made[2 * i])
                curl = ["curl", "-s", "-o", f"{folder}/answer", "-w", "%{time_total}", "-F", f"image=@{path}"]
                said = subprocess.run([*curl, f"{url}/explain/grad-cam"], capture_output=True, check=True, text=True)
                times = page.evaluate(DROP, [base64.b64encode(made[2 * i + 1]).decode(), "picture.jpg", "image/jpeg"])
                page.locator("[data-state=done]").wait_for()
                if i >= 2:
                    asked.append(1e3 * float(said.stdout))
                    shown.append(times)
                    ratios.append(times[0] / asked[-1])
            page.close()
            whole, sent, answered = (statistics.median(one) for one in zip(*shown, strict=True))
            ratio = statistics.median(ratios)
            worst = max(worst, ratio)
            name = f"{kind} of {size[0]} x {size[1]}"
            print(
                f"| {name} | {whole:.0f} ms | {sent:.0f} ms | {answered:.0f} ms | {statistics.median(asked):.0f} ms "
                f"| {ratio:.2f} |",
                flush=True,
            )
        browser.close()
    if options.most is not None and worst > options.most:
        sys.exit(f"the first map takes {worst:.2f} times as long as curl, and {options.most:g} was allowed")


if __name__ == "__main__":
    main()
