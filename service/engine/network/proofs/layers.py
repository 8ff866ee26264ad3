"""A network's layers: their addresses, where the picture's places are in what they answer, and the default one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from service.contract import LayerInfo, Layout
from service.contract.facts import MOVED, REMEDY
from service.engine.network.forms.addresses import Fold, fold_of
from service.engine.network.offsets import offset_of
from service.engine.network.places.grids import FINE, Candidate, default_layer, follows, reach
from service.engine.network.places.moved import moved
from service.engine.network.proofs.answering import Answering
from service.engine.network.proofs.heads import Averaged
from service.engine.network.proofs.watch import Call, Changes, Watched, addresses, shapes
from service.models.networks import holding

RELU = "+relu"
_SECOND = Fold(1)  # pictures on the second axis, behind that of their tokens
_SCALES = 4  # detections of a size each, that a detector's layers are looked at for
_OTHER = 64  # pixels between the widths of the two input sizes
_BESIDE = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.Dropout, nn.Identity)  # a linear layer, part of it
_MAPS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)  # whose answers are (N, C, h, w) by definition


@dataclass
class Layers:
    """What was found of the layers, in the order of the forward."""

    infos: dict[str, LayerInfo] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    default: str | None = None
    averaged: list[Averaged] = field(default_factory=list)
    folds: dict[str, Fold] = field(default_factory=dict)  # of those whose rows are not the pictures
    same: dict[str, int] = field(default_factory=dict)  # equal for two names of one tensor
    gradients: list[Tensor | None] = field(default_factory=list)  # of the score at each, with one row a picture


def parts(watched: Watched | None, boxes: bool) -> frozenset[int] | None:
    """Return, of a detector, the calls that only a part of its answer is made of: its heads, and single scales.

    Gradients tell: they get to what all is made of from the boxes as from the scores, of large and of small ones.

    Args:
        watched: its calls with gradients.
        boxes: whether it is a detector; of other networks there is nothing to return.
    """
    if watched is None or not boxes:
        return None
    found = watched.returned.flatten(0, 1)  # (D, 6)
    found = found[found[:, 4] > 0]
    if not len(found):
        return frozenset()
    extent = (found[:, 2:4] - found[:, :2]).prod(1).argsort().tolist()
    chosen = {extent[i * (len(extent) - 1) // (_SCALES - 1)] for i in range(_SCALES)}
    try:
        seen = [watched.gradients(one)[1] for one in (found[:, :4].sum(), *(found[i, 4] for i in chosen))]
    except (Exception, SystemExit):  # of a backward of the network's own
        return frozenset()
    return frozenset(
        i for i, each in enumerate(zip(*seen, strict=True)) if not all(g is not None and g.any() for g in each)
    )


def find_layers(
    answering: Answering,
    changes: Changes,
    watched: Watched | None,
    gradients: list[Tensor | None] | None,
    classes: int | None,
    parts: frozenset[int] | None = None,
) -> Layers:
    """Find the layers of a network.

    Args:
        answering: runs it.
        changes: what each call answered to changed pictures.
        watched: what the same calls answered with gradients.
        gradients: of the score at each of these calls.
        classes: channels of what a segmentation answers with; None where the answer is no map.
        parts: of a detector, the calls that not all of its answer is made of; None for other networks.
    """
    names, repeated = addresses(changes.calls)
    other, projections = _at_another_size(answering), _projections(answering.network)
    weighted = _weighted(answering.network)
    found = Layers(repeated=repeated)
    candidates: list[Candidate] = []
    before = 0  # places of the layer before
    elsewhere = moved(changes.calls, watched, gradients)
    calls = [_unplaced(call) if i in elsewhere else call for i, call in enumerate(changes.calls)]
    growing, rows = _growing(calls, other), 1 if answering.singly else len(answering.rows)
    for i, (name, call) in enumerate(zip(names, calls, strict=True)):
        seen = watched.calls[i] if watched is not None else call
        gradient = gradients[i] if gradients else None
        fold = _fold(call, watched.leaves[i], rows) if watched is not None else None
        if call.turned is not None and fold != Fold():
            call = call.turned if fold == _SECOND else replace(call, layout=None, pooled=None)
            gradient = gradient.transpose(0, 1) if fold == _SECOND and gradient is not None else gradient
        found.gradients.append(gradient)
        grows = i in growing
        layout = Layout("chw", (call.shape[1], call.shape[2])) if grows else call.layout
        unknown = gradients is None and watched is not None
        found.infos[name] = _info(name, call, seen, layout, unknown or gradient is not None)
        kept = found.infos[name].gradient and offset_of(call.module) is not None
        if watched is not None and (kept or (fold == _SECOND and layout is not None)):
            found.infos[name] = _folded(found, fold, watched.leaves[i])
        if i in elsewhere:
            found.infos[name] = replace(found.infos[name], elsewhere=True)
        if fold is not None and fold.axis:
            found.infos[name] = replace(found.infos[name], turned=True)
        found.same[name] = seen.same if watched is not None else i
        if layout is None:
            continue
        averaged = call.layout is None or call.layout == layout  # over the places of this layout
        if averaged and call.pooled is not None and call.rectified is not None:
            found.averaged.append(Averaged(name, call.pooled))
            if seen.followed_by == "relu":
                found.averaged.append(Averaged(name + RELU, call.rectified))
        # What a segmentation or a detector answers with is made of the features that its default layer holds.
        answer = (parts is not None and i in parts) or (classes is not None and found.infos[name].shape[0] == classes)
        reached = reach(gradient, layout)
        if parts is not None and reached:
            reached = 1.0  # a box is made in few cells, and in others where it lies elsewhere
        cells = layout.grid[0] * layout.grid[1]
        fewer = bool(candidates) and cells < before and call.path not in weighted
        before = cells
        candidates.append(
            Candidate(
                name,
                found.same[name],
                call.layout is not None,
                grows,
                reached,
                call.path in projections or answer,
                seen.only_pool or fewer,  # without weights some places are left of an earlier layer's
            )
        )
    _say(answering, found)
    found.default = default_layer(candidates)
    if found.default is not None and (watched is None or not watched.projects(names.index(found.default))):
        found.infos[found.default] = replace(found.infos[found.default], projects=False)
    return found


def _growing(calls: Sequence[Call], other: Mapping[str, tuple[int, ...]]) -> set[int]:
    """Return the calls whose answers are maps of places, as their size follows the input's.

    Args:
        calls: all of them.
        other: shapes of the answers to a picture of another width; none, where no other size can show it.
    """
    counts: dict[str, int] = {}
    found: set[int] = set()
    behind: list[int] = []  # those that show no grid behind the last that does
    met = False
    for i, call in enumerate(calls):
        counts[call.path] = counts.get(call.path, 0) + 1
        grows = call.aligned and follows(call.shape, other.get(f"{call.path}#{counts[call.path]}"))
        if not other and call.aligned and isinstance(call.module, _MAPS) and len(call.shape) == 3:
            grows = call.shape[1] == call.shape[2] > 1  # what it is like
        if grows and not call.elsewhere:
            found.add(i)
        if call.layout is not None:
            met, behind = True, []
        elif met and i in found:
            behind.append(i)
    fine = [calls[i] for i in behind if min(calls[i].shape[1:]) >= FINE]
    if fine and all(call.scattered for call in fine):  # a sound network has one among them that is not
        found -= set(behind)
    return found if _placed(calls) else set()


def _placed(calls: Sequence[Call]) -> bool:
    """Whether sizes that follow the input's are those of places: not where all that could be places shows none.

    A network that looks at a spectrum of the picture has maps of frequencies.
    """
    fine = any(call.aligned and len(call.shape) == 3 and min(call.shape[1:]) >= FINE for call in calls)
    return not fine or any(call.layout is not None for call in calls)


def _say(answering: Answering, found: Layers) -> None:
    """Tell people of layers whose cells look elsewhere."""
    if elsewhere := [path for path, info in found.infos.items() if info.elsewhere]:
        answering.checks.warn(
            "places",
            f"{len(elsewhere)} layers ({', '.join(map(repr, elsewhere[:3]))}) look at other places than their maps "
            f"would be drawn over: {MOVED}",
            f"{REMEDY}; methods that look at no layer are right as it is",
        )


def _unplaced(call: Call) -> Call:
    """Return a call without the grid that it seemed to be: its cells look at other places than their own."""
    turned = None if call.turned is None else _unplaced(call.turned)
    return replace(call, layout=None, elsewhere=True, pooled=None, turned=turned)


def _projections(network: nn.Module) -> set[str]:
    """Return the paths of linear layers, also with a norm around them, as those of queries, keys and values often are.

    A part of one is one, too: its norm answers with the same.
    """
    found: set[str] = set()
    for path, module in holding.modules(network):
        inside = holding.modules(module)
        parts = [part for _, part in inside if not holding.parts(part)]
        linear = [part for part in parts if isinstance(part, nn.Linear)]
        if len(linear) == 1 and all(part is linear[0] or isinstance(part, _BESIDE) for part in parts):
            found |= {f"{path}.{name}".strip(".") for name, _ in inside}
    return found


def _weighted(network: nn.Module) -> set[str]:
    """Return the addresses of modules that have parameters, their own or those of modules inside of them."""
    found: set[str] = set()
    for path, module in holding.modules(network):
        if holding.weights(module):
            names = path.split(".")
            found |= {".".join(names[:i]) for i in range(len(names) + 1)}
    return found


def _at_another_size(answering: Answering) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all answers to a picture of another width; none where the network takes one size only."""
    height, width = answering.pictures.shape[2:]
    narrower = width >= 3 * _OTHER  # which takes less time
    other = (height, width - _OTHER if narrower else width + _OTHER)
    try:
        found = shapes(answering.run, nn.functional.interpolate(answering.pictures[:1], other))
    except (Exception, SystemExit):
        answering.checks.passed("size", f"it takes pictures of {height} x {width} pixels only")
        return {}
    answering.checks.passed("size", f"it takes other sizes than {height} x {width}, too")
    return found


def _fold(call: Call, one: Tensor, rows: int) -> Fold | None:
    """Find out how pictures lie in what a layer answered to rows, and to one of them; None where that is not known."""
    if call.turned is not None and rows == one.shape[1] == 1 != len(one):
        return _SECOND
    return fold_of(one, (call.length, *call.shape), rows, call.first)


def _folded(found: Layers, fold: Fold | None, one: Tensor) -> LayerInfo:
    """Take note of how pictures lie in what a layer answers, where the first axis is not theirs; return its info."""
    name, info = next(reversed(found.infos.items()))
    if fold is None:
        return replace(info, apart=False)
    if fold == Fold():
        return info
    found.folds[name] = fold
    if info.spatial:
        return info
    return replace(info, shape=tuple(fold.rows(one).shape[1:]), folded=fold.parts > 1)


def _info(name: str, call: Call, seen: Call, layout: Layout | None, gradient: bool) -> LayerInfo:
    weight = getattr(call.module, "weight", None)
    is_convolution = isinstance(call.module, nn.Conv2d) and isinstance(weight, Tensor)
    shape = call.shape
    if layout is not None:
        shape = tuple(layout.maps(torch.empty(1, *call.shape, device="meta")).shape[1:])
    return LayerInfo(
        path=name,
        type=type(call.module).__name__,
        shape=shape,
        spatial=layout is not None,
        followed_by=seen.followed_by,
        kernel=tuple(weight.shape) if is_convolution and weight is not None else None,
        layout=layout,
        gradient=gradient,
    )
