"""What a network's outputs mean, as far as numbers tell."""

from dataclasses import dataclass

from service.contract import Scale, Task
from service.errors import CatalogError
from service.tasks import task
from service.tasks.boxes import check_boxes, check_moves
from service.tasks.numbers.numbers import TOLERANCE, Numbers, check_scores, near_one
from service.tasks.segmentation import Segmentation

_TURNS = 4  # numbers of length one that may say how something is turned, as a quaternion does
_TABLES = ("classification", "multilabel", "binary", "regression", "embedding")


@dataclass(frozen=True)
class Meaning:
    """A task, and where it comes from."""

    task: Task
    found: str  # what the numbers say, for people
    assumed: str | None = None  # what else they may be, where nothing but a guess decides
    remedy: str | None = None


def meaning(numbers: Numbers, name: str | None, scale: Scale | None) -> Meaning:
    """Return what answers mean, given the task and the scale that the source or the catalogue declares, if any.

    Raises:
        CatalogError: what is declared cannot be read from them, or they say that it is something else.
    """
    raw = numbers.raw
    _check_shape(numbers, name)
    if numbers.boxes:
        if numbers.size is not None:
            check_boxes(raw, numbers.size)
            if numbers.moved is not None and raw.numel():
                check_moves(raw[[0, -1]], numbers.moved, numbers.size)
        return Meaning(task("detection"), "boxes with a class and a score each")
    if name in ("regression", "embedding"):
        return Meaning(task(name, scale), f"{raw.shape[1]} numbers")
    if raw.ndim == 2:
        check_scores(numbers, scale)
    if scale is not None:
        _check_scale(numbers, scale)
    if name is None:
        return _guess(numbers, scale)
    found, told = _scale(numbers, exclusive=name in ("classification", "segmentation"))
    exclusive = numbers.exclusive or numbers.add_up() or numbers.exponentials_add_up() or numbers.floored()
    exclusive = exclusive or numbers.stepped()
    independent = found != "logits" and not exclusive
    if name == "classification" and scale is None and independent:
        if (fixed := numbers.fixed_sum()) is not None:
            told, remedy = _of_fixed_sum(fixed, numbers.raw.shape[1])
            raise CatalogError(f"task = 'classification', and {told}; {remedy}")
        raise CatalogError(
            "task = 'classification', and the outputs are probabilities that do not add up to 1, as those of "
            "independent classes; set task = 'multilabel', or scale = 'logits' to have their softmax all the same"
        )
    chosen = scale or found
    if name == "segmentation":
        return Meaning(
            *_maps(numbers, chosen, f"{chosen}: {told}" if scale is None else f"{scale}, as declared; {told}")
        )
    return Meaning(task(name, chosen), f"{chosen}: {told}" if scale is None else f"{scale}, as declared; {told}")


def _maps(numbers: Numbers, scale: Scale, told: str) -> tuple[Task, str]:
    """Return the task of maps of probabilities or logits, and what the numbers say."""
    apart = scale == "probabilities" and numbers.apart()
    beside = ", and a pixel's do not add up to 1: each class is there or not, whatever the others are" if apart else ""
    return Segmentation(scale, apart), told + beside


def _guess(numbers: Numbers, scale: Scale | None) -> Meaning:
    raw = numbers.raw
    found, told = _scale(numbers, exclusive=True)
    chosen = scale or found
    if raw.ndim == 4:
        if (
            raw.shape[1] == 1
            and bool((raw == raw.round()).all())
            and float(raw.amax()) > 1
            and bool(raw.amax() != raw.amin())
        ):
            raise CatalogError(
                "its maps are of whole numbers, as numbers of classes are: no scores; let it return the scores of all "
                "classes, as before argmax, (N, K, H, W)"
            )
        maps = _maps(numbers, chosen, f"maps of {raw.shape[1]} classes, {chosen}: {told}")
        if raw.shape[1] > 1 or chosen != "logits" or numbers.ending == "linear" or bool((raw < 0).any()):
            return Meaning(*maps)
        return Meaning(
            *maps,
            "a map of numbers none of which is below 0 may be of measured values, such as depth: segmentation is "
            "assumed",
            "say so, as task = 'segmentation'; of measured values let it return what is asked about, as "
            "y.mean((2, 3)), with task = 'regression'",
        )
    if raw.shape[1] == 1:
        one = Meaning(task("binary", chosen), f"one output, {chosen}: {told}")
        if chosen != "logits":
            return one
        if numbers.becomes == "sigmoid":
            return Meaning(one.task, f"{one.found}, and its forward takes their sigmoid")
        return Meaning(
            one.task,
            one.found,
            "one output may be the logit of a binary classifier or a measured quantity: binary is assumed",
            "say which, as task = 'binary' or task = 'regression'",
        )
    if numbers.add_up() or numbers.exponentials_add_up():
        return Meaning(task("classification", chosen), f"classes that exclude each other, {chosen}: {told}")
    if numbers.exclusive and chosen != "logits":
        return Meaning(
            task("classification", chosen),
            f"classes that exclude each other, {chosen}: a softmax makes them, and some of its classes are left out",
        )
    if chosen == "logits" and numbers.becomes is not None:
        name = "classification" if numbers.becomes == "softmax" else "multilabel"
        return Meaning(task(name, chosen), f"{chosen}: {told}, and its forward takes their {numbers.becomes}")
    # They may be in 0..1, too.
    if scale is None and numbers.ending is None and near_one(raw.norm(dim=1), numbers.tolerance):
        told = "each picture's numbers have length 1, as an embedding's"
        if raw.shape[1] > _TURNS:
            return Meaning(task("embedding"), told)
        return Meaning(
            task("embedding"),
            told,
            "so few may be a direction or a quaternion, too: an embedding is assumed",
            "say which, as task = 'embedding' or task = 'regression'",
        )
    nearly = (numbers.stepped, "a rounding"), (numbers.floored, "a floor, as a softmax that is clamped")
    if chosen != "logits" and (off := next((why for holds, why in nearly if holds()), None)) is not None:
        return Meaning(
            task("classification", chosen),
            f"{chosen}: {told}",
            f"each picture's add up to 1 but for {off}: classification is assumed",
            "say which, as task = 'classification' or task = 'multilabel'",
        )
    if chosen != "logits" and (fixed := numbers.fixed_sum()) is not None:
        why, remedy = _of_fixed_sum(fixed, raw.shape[1])
        return Meaning(
            task("multilabel", chosen),
            f"{chosen}: {told}",
            f"{why}: independent classes are assumed",
            f"{remedy}; or say task = 'multilabel'",
        )
    if chosen != "logits":
        return Meaning(task("multilabel", chosen), f"independent classes, {chosen}: {told}")
    return Meaning(
        task("classification", chosen),
        f"{chosen}: {told}",
        "they may be the logits of classes that exclude each other, those of independent ones, or an embedding: "
        "classification is assumed",
        "say which, as task = 'classification', 'multilabel', 'regression' or 'embedding'",
    )


def _scale(numbers: Numbers, *, exclusive: bool) -> tuple[Scale, str]:
    """Return what numbers are, and why."""
    if numbers.ending == "linear":
        return "logits", f"a linear map makes them; {numbers.told}"
    if exclusive and numbers.add_up():
        return "probabilities", "each picture's are between 0 and 1 and add up to 1"
    if exclusive and numbers.exponentials_add_up():
        return "log-probabilities", "each picture's are at most 0, and their exponentials add up to 1"
    if numbers.ending == "logsigmoid":
        return "log-probabilities", "a log-sigmoid makes them"
    if numbers.inside() and (numbers.ending == "sigmoid" or numbers.bounded()):
        return "probabilities", "all are between 0 and 1"
    return "logits", numbers.told


def _of_fixed_sum(total: float, classes: int) -> tuple[str, str]:
    """Return what probabilities are that add up to the same for each picture, and what to do about it."""
    told, groups = f"each picture's outputs add up to {total:.4g}, so that they are not independent", round(total)
    if abs(total - groups) > 1e-2:
        return told, "let it return probabilities that add up to 1, or the logits before them"
    if groups == classes - 1:
        return f"{told}, as 1 - p of probabilities p", "let it return p, or the logits before them"
    return (
        f"{told}, as those of {groups} softmaxes side by side",
        "let it return those of one, as y[:, :2], or name one of several items as `output`",
    )


def _check_shape(numbers: Numbers, name: str | None) -> None:
    shape = "detection" if numbers.boxes else "segmentation" if numbers.raw.ndim == 4 else "table"
    if name is not None and shape != ("table" if name in _TABLES else name):
        answers, instead = {
            "table": (f"one row of {numbers.raw.shape[1]} numbers a picture", "classification"),
            "segmentation": (f"maps (N, K, H, W) = {tuple(numbers.raw.shape)}", "segmentation"),
            "detection": ("boxes", "detection"),
        }[shape]
        number = ", let it return a number of them, as y.mean((2, 3))" if shape == "segmentation" else ""
        raise CatalogError(
            f"task = {name!r}, and the network answers with {answers}; set task = {instead!r}{number}, or name another "
            "item of what it returns as `output`"
        )
    if name == "classification" and numbers.raw.shape[1] == 1:
        raise CatalogError(
            "task = 'classification', and the network has one output: its softmax is 1 for every picture; set task = "
            "'binary' or task = 'regression'"
        )


def _check_scale(numbers: Numbers, scale: Scale) -> None:
    outside = not numbers.inside() if scale == "probabilities" else bool((numbers.raw > TOLERANCE).any())
    if scale != "logits" and outside:
        raise CatalogError(
            f"scale = {scale!r}, and the outputs are something else: {numbers.told}; set scale = 'logits'"
        )
