"""Exact forwards of pictures with one changed rectangle: only what the rectangle can reach is computed again.

Nakandala et al. 2019, "Incremental and approximate inference for faster occlusion-based deep CNN explanations"
(Krypton), for any network whose operators can be written down. Of the clean picture every map that some operator needs
as surroundings is kept. A row carries the changed rectangle of each map: surroundings are cut out of the clean map, the
rectangle is pasted in, and the operator runs without padding. From where rectangles cover most of the maps on, the
network runs on whole ones.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cache, lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from service.engine.incremental import planning
from service.engine.incremental.batch import Batch, Layout
from service.engine.incremental.clean import Clean, keep, nbytes, needs
from service.engine.incremental.costs import Costs, OnDevice, here
from service.engine.incremental.planning import Plan
from service.engine.incremental.proving import prove
from service.engine.incremental.recording.graph import NotIncremental, Pair, Recording
from service.engine.incremental.recording.writing import write_down
from service.engine.incremental.regions import Region, reached

_LAYOUTS_BYTES = 12 * 2**20  # of where rectangles lie, kept for the next picture on the same grid
_PLANS = 256  # kept for the next caller


class Incremental:
    """A network as a list of operators, whose outputs for changed rectangles are computed from a clean picture's maps.

    `clean` and `outputs` run on one thread, that of the device. All else only reads, and may be called from any thread.
    The network's parameters are shared, but for convolutions' weights that do not lie channels last: of these there are
    copies.
    """

    def __init__(self, recording: Recording, costs: Costs) -> None:
        self.recording, self.costs = recording, costs
        self._best = lru_cache(_PLANS)(partial(planning.best, recording, costs))
        self._layouts: dict[Hashable, Layout] = {}  # in the order of use; of the device thread
        self._needs = cache(partial(needs, recording))  # by switch

    @classmethod
    def of(
        cls,
        module: nn.Module,
        example: Tensor,
        on_device: OnDevice = here,
        costs: Callable[[Recording], Costs] | None = None,
    ) -> "Incremental":
        """Write down a network in evaluation mode, in float32, and prove on seeded changes that outputs stay the same.

        Args:
            module: maps (N, C, H, W) to (N, K).
            example: (N, C, H, W), of the only size that is supported from then on.
            on_device: runs each step that the network takes part in, on the thread that will do the work.
            costs: estimates what working takes; by default it is measured.

        Raises:
            NotIncremental: operators read whole maps, depend on values, or the proof fails.
        """
        try:
            recording = on_device(partial(write_down, module, example))
            planning.require_local(recording)
            built = cls(recording, costs(recording) if costs else Costs.measured(recording, example, on_device))
            prove(recording, module, example, lambda window: (built.plan(window).switch, recording.furthest), on_device)
        except (RuntimeError, TypeError, LookupError) as failure:
            raise NotIncremental(f"an operator cannot be repeated: {failure}") from failure
        return built

    @property
    def seconds(self) -> Sequence[float]:
        """Seconds of a plain row, by operator."""
        return self.costs.operators

    def plan(self, window: Pair, step: int = 1) -> Plan:
        """Return how to work off rectangles (h, w) whose corners are multiples of `step`; kept for the next caller."""
        return self._best(window, step)

    def batches(self, plan: Plan, corners: Tensor) -> list[Tensor]:
        """Return indices of rectangles at these corners (N, 2), (y, x), dealt out into batches of alike ones."""
        found = planning.dealt(corners.cpu().numpy(), plan.window, self.recording.size, plan.rows)
        return [torch.from_numpy(batch) for batch in found]

    def clean(self, image: Tensor, plan: Plan) -> Clean:
        """Run one forward of a picture (1, C, H, W); keep what rows of the plan need of it."""
        with torch.inference_mode():
            return keep(self.recording, self._needs(plan.switch), plan.switch, image)

    def clean_bytes(self, plan: Plan) -> int:
        """Return the bytes of what is kept of a picture for a plan, before it is."""
        return nbytes(self.recording, self._needs(plan.switch), plan.switch)

    def outputs(self, plan: Plan, cleans: Sequence[Clean], of: Tensor, corners: Tensor, patches: Tensor) -> Tensor:
        """Return the outputs (N, K) of pictures with one rectangle replaced.

        Args:
            plan: of the patches' size.
            cleans: pictures, kept for this plan.
            of: (N,) which of the pictures a row changes.
            corners: (N, 2), (y, x) of the rectangle's upper left pixel, as a tensor is indexed.
            patches: (N, C, h, w) what the rectangle shows, inside the picture.

        Raises:
            ValueError: pictures were kept for another plan, or a rectangle is not inside the picture.
        """
        n, (h, w) = len(patches), patches.shape[2:]
        owner, at = of.cpu().numpy(), corners.cpu().numpy().astype(np.int64)
        if any(clean.switch != plan.switch for clean in cleans):
            raise ValueError("these maps were kept for another plan")
        if not n or at.shape != (n, 2) or (at < 0).any() or (at + np.array([h, w]) > self.recording.size).any():
            raise ValueError(f"each of the {n} rectangles has to lie inside the picture")
        order = np.argsort(owner, kind="stable")
        used, lengths = np.unique(owner, return_counts=True)
        with torch.inference_mode():
            if not (order[1:] > order[:-1]).all():
                patches = patches[torch.from_numpy(order).to(patches.device)]
            first = Region.of(at[order], (h, w))
            key = plan.switch, first.size, first.start.tobytes()
            layout = self._layouts.pop(key, None) or Layout(reached(self.recording, plan.switch, first))
            batch = Batch(self.recording, layout, [cleans[i] for i in used.tolist()], lengths.tolist())
            found = batch.run(patches)
            self._keep(key, layout)
            result = torch.empty_like(found)
            result[torch.from_numpy(order).to(found.device)] = found
        return result

    def _keep(self, key: Hashable, layout: Layout) -> None:
        """Keep where the rectangles of a batch lie; what was used least recently is forgotten first."""
        self._layouts[key] = layout
        held = sum(one.nbytes for one in self._layouts.values())
        while held > _LAYOUTS_BYTES:
            held -= self._layouts.pop(next(iter(self._layouts))).nbytes
