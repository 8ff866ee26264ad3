"""What the protocols call outputs: columns of numbers, heat maps and documents, each as the bytes of one answer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from service.answer import Answer, Needs
from service.api import formats
from service.api.formats import Format
from service.ask import Ask
from service.contract import Facts
from service.errors import NotApplicable
from service.rendering import encoders

EXPLANATION, PREDICTION = "explanation", "prediction"
_COLUMNS = {"logit": "logits", "probability": "probabilities", "value": "values"}
HEAT = ("positive", "signed")  # kinds of maps that are (h, w)


def whole(ask: Ask, facts: Facts) -> Ask:
    """Return a question for predictions that is answered with all of a network's outputs."""
    return replace(ask, top_k=facts.outputs)


def names(facts: Facts) -> tuple[str, ...]:
    """Return the columns that a network's task has: `logits` and `probabilities`, or `values`; none of other tasks."""
    if facts.task.name in ("classification", "multilabel", "binary"):
        return ("logits", "probabilities")
    return ("values",) if facts.task.name == "regression" else ()


def columns(answer: Answer, facts: Facts) -> dict[str, list[float]]:
    """Return each column's numbers in the order of the outputs, of an answer to a question that is `whole`."""
    if not names(facts):
        return {}
    ordered = sorted(answer.predictions, key=lambda one: one.index or 0)
    return {name: [getattr(one, field) for one in ordered] for field, name in _COLUMNS.items() if name in names(facts)}


def table(facts: Facts) -> Format:
    """Return the format of all columns, in the order of `names`: an array (columns, K)."""

    def encode(answer: Answer) -> bytes:
        found = columns(answer, facts)
        return encoders.npy(np.array([found[name] for name in names(facts)], np.float32))

    return _internal(encode)


def _heat(answer: Answer) -> bytes:
    arrays = [one.heat.array for one in answer.maps]
    if not arrays or any(one.ndim != 2 or one.shape != arrays[0].shape for one in arrays):
        kinds = ", ".join(sorted({one.map.kind for one in answer.maps}))
        raise NotApplicable(
            f"{answer.method} answers with maps that are no heat maps of one size ({kinds}) with these parameters; ask "
            f"for the output {EXPLANATION!r}"
        )
    return encoders.npy(np.stack(arrays))


def _internal(encode: Callable[[Answer], bytes], needs: Needs | None = None) -> Format:
    return Format("", (), "", needs or Needs(), encode)


MAPS = _internal(_heat, Needs(arrays="all"))
"""The format of heat maps: an array (targets, h, w)."""
PREDICTIONS = _internal(lambda answer: formats.dumps(formats.document(answer)))
"""The format of a whole answer to a question for predictions."""
