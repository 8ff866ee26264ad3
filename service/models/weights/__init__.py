"""State dicts: what a file is, what it holds, and how that fits into a network."""

from service.models.weights.fitting import fit
from service.models.weights.kinds import kind
from service.models.weights.reading import State, load, read_weights

__all__ = ["State", "fit", "kind", "load", "read_weights"]
