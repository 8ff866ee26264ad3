"""Numbers about maps, held against Quantus and RISE's authors where these are right: `python -m tests.bench.judges`.

Needs Quantus (`pip install quantus`), which nothing else does. Left out is where they are known to differ for a reason:
Quantus' curves leave out the whole picture, take its least value for black, hide colours of a pixel one by one, and
take ties as they lie.
"""

import numpy as np
import torch
from quantus import PixelFlipping, PointingGame, Sparseness
from quantus.functions.similarity_func import correlation_spearman
from quantus.functions.similarity_func import ssim as their_ssim
from torch import nn

from service.faithfulness.curves import STEPS, Scene
from service.faithfulness.likeness import spearman, ssim
from service.faithfulness.ordering import ranks
from service.faithfulness.shape import localisation, sparsity
from tests.faithfulness.conftest import Watched

TOLERANCE = 1e-6
SIDE = 32


def _curves(values: torch.Tensor) -> dict[str, tuple[float, float]]:
    """Return deletion by our rows and by Quantus, and the area by the formula of RISE's authors."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.Tanh(), nn.Linear(8, 1)).eval()
    x = torch.rand(1, 1, SIDE, SIDE)
    with torch.no_grad():
        scene = Scene.of(Watched(network), x, {"mean": torch.zeros_like(x)}, odds=False)
        ours = scene.curves([ranks(values)], ["mean"])[0]["mean"][0]
    low, high = float(scene.hidden["mean"]), float(scene.shown)
    flipping = PixelFlipping(
        features_in_step=SIDE * SIDE // STEPS,
        perturb_baseline=0.0,
        return_auc_per_sample=False,
        disable_warnings=True,
        normalise=False,
        abs=False,
    )
    theirs = flipping(
        model=network,
        x_batch=x.numpy(),
        y_batch=np.array([0]),
        a_batch=values[None, None].numpy(),
        softmax=False,
        device="cpu",
    )[0]
    found = {
        f"deletion, step {k}": (low + (high - low) * ours.deletion[k], float(theirs[k - 1]))
        for k in range(1, STEPS + 1)
    }
    for name, y, area in (
        ("deletion", ours.deletion, ours.deletion_area),
        ("insertion", ours.insertion, ours.insertion_area),
    ):
        found[f"area of {name}, RISE"] = area, (sum(y) - y[0] / 2 - y[-1] / 2) / (len(y) - 1)
    return found


def compare() -> dict[str, tuple[float, float]]:
    """Return each number by us and by them."""
    random = torch.Generator().manual_seed(0)
    a = torch.rand(SIDE, SIDE, generator=random)
    b = a + torch.rand(SIDE, SIDE, generator=random)
    quiet = {"disable_warnings": True, "abs": False, "normalise": False}
    x = np.zeros((1, 1, SIDE, SIDE), np.float32)
    shared = {"model": None, "x_batch": x, "y_batch": np.array([0]), "a_batch": a[None, None].double().numpy().copy()}
    # They add 1e-7 to each value, so that nothing is divided by zero.
    found = {"sparsity (Gini)": (sparsity(a.double() + 1e-7), float(Sparseness(**quiet)(**shared)[0]))}
    found["spearman"] = spearman(a, b) or 0.0, float(correlation_spearman(a.numpy().ravel(), b.numpy().ravel()))
    scaled = [(m.double() / m.double().square().mean().sqrt()).numpy() for m in (a, b)]
    reach = float(max(m.max() for m in scaled) - min(m.min() for m in scaled))
    theirs = their_ssim(scaled[0] / reach, scaled[1] / reach)  # they take the first map's range for the range of both
    found["ssim, about"] = ssim(a, b) or 0.0, float(np.squeeze(theirs))
    y, x0 = divmod(int(a.argmax()), SIDE)
    for what, (left, top) in {"hit": (x0, y), "missed": ((x0 + 16) % 24, (y + 16) % 24)}.items():
        inside = np.zeros((1, 1, SIDE, SIDE), bool)
        inside[0, 0, top : top + 8, left : left + 8] = True
        pointing = PointingGame(**quiet)(**{**shared, "s_batch": inside})[0]
        ours = localisation(a, (left, top, left + 8, top + 8)).pointing
        found[f"pointing game, {what}"] = ours, float(pointing)
    return found | _curves(a)


def main() -> int:
    """Print both, and say whether they agree."""
    wrong = 0
    for name, (ours, theirs) in compare().items():
        far = abs(ours - theirs) > TOLERANCE and "about" not in name
        wrong += far
        print(f"{name:28}{ours:14.8f}{theirs:14.8f}{'  DIFFERS' * far}")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
