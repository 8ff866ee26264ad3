"""What a network's outputs mean: one file a task."""

from service.contract import Task
from service.errors import CatalogError, did_you_mean
from service.tasks.classification import Classification
from service.tasks.regression import Regression

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}


def task(name: str) -> Task:
    """Return a task by its name on the wire.

    Raises:
        CatalogError: there is none of that name.
    """
    if name not in TASKS:
        raise CatalogError(f"there is no task {name!r}{did_you_mean(name, TASKS)}; there are: {', '.join(TASKS)}")
    return TASKS[name]
