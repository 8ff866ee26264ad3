"""Masked inputs exist a batch at a time: all of them together would be 1.2 GB here."""

import subprocess
import sys
from pathlib import Path

LIMIT_MIB = 300
SCRIPT = """
from pathlib import Path

import torch
from torch import nn

from service.app import build, close
from service.models.spec import ModelSpec
from service.tasks import task
from service.engine.probe import ModelProbe
from service.engine.scheduler.run import Run
from service.engine.store import Store
from service.contract import Targets
from service.explainers.cam.score_cam import ScoreCAM
from service.images import Transform
from service.settings import Settings

torch.set_num_threads(2)

def network():
    torch.manual_seed(0)
    coarse = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 2048, 1), nn.ReLU())
    return nn.Sequential(*coarse, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 10))

spec = ModelSpec("wide", network, Transform(224, (224, 224), (0.5,) * 3, (0.2,) * 3), task("classification"))
context = build(Settings(device="cpu", tune=False))
store = Store({"wide": spec}, "wide", context.device)
store.start()
store.wait()
model = store.get(None)


def peak_mib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


image = torch.randn(1, 3, 224, 224)
run = Run()
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
resting = peak_mib()
ScoreCAM().explain(ModelProbe(model, context.device, run), image, Targets(model.facts, [1]))
peak = peak_mib()
close(context)
print(run.usage.forwards, peak - resting)
"""


def test_a_2048_channel_score_cam_stays_within_its_memory():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    forwards, mebibytes = done.stdout.split()
    assert int(forwards) > 1000
    assert 1 < float(mebibytes) <= LIMIT_MIB
