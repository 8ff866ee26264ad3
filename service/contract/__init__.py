"""What methods and networks say to each other: the values that cross between them, and the two questions.

A method (`service.explainers`) knows a network only as a `Probe`. A network's outputs are a table (N, K) whose columns
have the meaning that its `Task` gives them; a `Target` is what a map explains of such a table. What is no table, such
as boxes or a map of classes, becomes one by the `Readout` of a request. Everything here is data: no thread, no module.

Boxes are (x0, y0, x1, y1) in pixels, the last ones exclusive. Sizes and shapes are (height, width).
"""

from service.contract.explanation import Box, Completeness, Explanation, Interpolation, Kind, Map
from service.contract.facts import INPUT, Attention, Check, Facts, Head, LayerInfo, Layout
from service.contract.meaning import (
    Asked,
    Clean,
    Evidence,
    Placing,
    Prediction,
    Readout,
    Scale,
    Score,
    Target,
    Targets,
    Task,
    View,
)
from service.contract.probe import (
    At,
    Boxes,
    Objective,
    Pairs,
    Part,
    Probe,
    Rows,
    Sketch,
    Total,
    Trace,
    Tracing,
    fingerprint,
)
from service.contract.rules import Relevance, Rescale, Rule, Rules, Share
from service.fair.wanted import still_wanted, wanted

__all__ = [
    "INPUT",
    "Asked",
    "At",
    "Attention",
    "Box",
    "Boxes",
    "Check",
    "Clean",
    "Completeness",
    "Evidence",
    "Explanation",
    "Facts",
    "Head",
    "Interpolation",
    "Kind",
    "LayerInfo",
    "Layout",
    "Map",
    "Objective",
    "Pairs",
    "Part",
    "Placing",
    "Prediction",
    "Probe",
    "Readout",
    "Relevance",
    "Rescale",
    "Rows",
    "Rule",
    "Rules",
    "Scale",
    "Score",
    "Share",
    "Sketch",
    "Target",
    "Targets",
    "Task",
    "Total",
    "Trace",
    "Tracing",
    "View",
    "fingerprint",
    "still_wanted",
    "wanted",
]
