"""What methods and networks say to each other: the values that cross between them, and the two questions.

A method (`service.explainers`) knows a network only as a `Probe`. A network's outputs are a table (N, K) whose columns
have the meaning that its `Task` gives them; a `Target` is what a map explains of such a table. Everything here is data:
no thread, no module, no request.

Boxes are (x0, y0, x1, y1) in pixels, the last ones exclusive. Sizes and shapes are (height, width).
"""

from service.contract.explanation import Box, Explanation, Kind, Map
from service.contract.facts import Facts, Head, LayerInfo
from service.contract.meaning import Asked, Prediction, Score, Target, Targets, Task
from service.contract.probe import (
    INPUT,
    Boxes,
    Objective,
    Part,
    Probe,
    Rows,
    Rule,
    Sketch,
    Total,
    Trace,
    Tracing,
    fingerprint,
)

__all__ = [
    "INPUT",
    "Asked",
    "Box",
    "Boxes",
    "Explanation",
    "Facts",
    "Head",
    "Kind",
    "LayerInfo",
    "Map",
    "Objective",
    "Part",
    "Prediction",
    "Probe",
    "Rows",
    "Rule",
    "Score",
    "Sketch",
    "Target",
    "Targets",
    "Task",
    "Total",
    "Trace",
    "Tracing",
    "fingerprint",
]
