"""What a network's outputs mean: one file a task."""

from collections.abc import Callable
from dataclasses import replace

from service.contract import Scale, Task
from service.errors import CatalogError, did_you_mean
from service.tasks.binary import Binary
from service.tasks.classification import Classification
from service.tasks.detection import Detection
from service.tasks.embedding import Embedding
from service.tasks.multilabel import Multilabel
from service.tasks.regression import Regression
from service.tasks.segmentation import Segmentation

SCALED: dict[str, Callable[[Scale], Task]] = {
    kind.name: kind for kind in (Classification, Multilabel, Binary, Segmentation)
}
UNSCALED: dict[str, Task] = {task.name: task for task in (Regression(), Detection(), Embedding())}
TASKS = (*SCALED, *UNSCALED)


def task(name: str, scale: Scale | None = None) -> Task:
    """Return a task by its name on the wire; `scale` says what the numbers are, for networks with classes.

    Raises:
        CatalogError: there is none of that name, or it has no scale.
    """
    if name in SCALED:
        return SCALED[name](scale or "logits")
    if name not in UNSCALED:
        there = f"there are: {', '.join(TASKS)}"
        raise CatalogError(f"there is no task {name!r}" + did_you_mean(name, TASKS, then=there))
    if scale is not None:
        raise CatalogError(f"task {name!r} has no scale; leave `scale` out, or name one of {', '.join(SCALED)}")
    return UNSCALED[name]


def of_logits(found: Task) -> Task:
    """Return a task with classes for the logits that its probabilities are made of."""
    return replace(found, scale="logits") if isinstance(found, Segmentation) else task(found.name, "logits")
