"""What tasks whose outputs are a table have in common."""

from collections.abc import Sequence

from torch import Tensor

from service.contract import Asked, Facts, Target
from service.errors import CatalogError, InvalidParameter, did_you_mean


def table(output: object, name: str) -> Tensor:
    """Return the output of a network for N inputs as it is, where it is a table (N, K).

    Raises:
        CatalogError: it is something else.
    """
    if not isinstance(output, Tensor):
        raise CatalogError(f"model {name!r} returned a {type(output).__name__}; it has to return one tensor")
    if output.ndim != 2:
        raise CatalogError(
            f"model {name!r} returned shape {tuple(output.shape)}; a network has to return one (N, outputs) tensor"
        )
    return output


def read(asked: Sequence[Asked], facts: Facts) -> tuple[Target, ...]:
    """Return the outputs that indices and labels name.

    Raises:
        InvalidParameter: one of them does not exist.
    """
    return tuple(Target(_index(target, f"/targets/{i}", facts)) for i, target in enumerate(asked))


def _index(target: Asked, pointer: str, facts: Facts) -> int:
    if isinstance(target, int):
        if not 0 <= target < facts.outputs:
            raise InvalidParameter.at(
                pointer, f"target {target} is out of range: {facts.name} has outputs 0 to {facts.outputs - 1}"
            )
        return target
    same = [i for i, label in enumerate(facts.labels) if label.casefold() == target.casefold()]
    if len(same) == 1:
        return same[0]
    if same:
        raise InvalidParameter.at(pointer, f"label {target!r} stands for outputs {same}; give one of these indices")
    if not facts.labels:
        raise InvalidParameter.at(pointer, f"{facts.name} has no labels; give an index")
    near = did_you_mean(target, facts.labels, count=3)
    raise InvalidParameter.at(pointer, f"{facts.name} has no label {target!r}{near}; or give an index")
