"""A request of the Open Inference Protocol: from its tensors to questions, and from their answers to its outputs."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from service.api import formats
from service.api.bodies.fields import check, loaded
from service.api.kserve import outputs, tensors
from service.api.kserve.batch import Question, bounded, placed
from service.api.kserve.outputs import EXPLANATION, PREDICTION
from service.api.kserve.tensors import Tensor
from service.ask import Ask
from service.contract import Facts
from service.errors import InvalidParameter, ServiceError, did_you_mean, escaped, quoted
from service.explainers.base import registry

DEFAULT = "grad-cam"  # what `explanation` holds where a request names no method
_FIELDS = ("precision",)  # of a request, which are parameters here under the same name
_OUR_OWN = ("binary_data_output", "method", "timeout", "priority", *_FIELDS)
_OUTPUTS = {  # what one output is told, where a request says it for all of them
    "binary_data": "say it as a parameter of one output, or binary_data_output of all",
    "classification": "say it as a parameter of an output of numbers",
}
_DRAWN = "output"  # what begins so says how an explanation is drawn
INPUTS = ("image", "targets", "pictures")
_TEXT = 2**18  # bytes of all targets: of as many as there may be, so many as the longest label has


@dataclass(frozen=True)
class _Output:
    """One output as it is asked for."""

    name: str
    pointer: str
    binary: bool
    classes: int | None  # the strongest ones as text, instead of all numbers
    method: str | None  # that explains for it
    fields: dict[str, Any]  # of a question to that method
    places: dict[str, str]  # where each of its parameters stands in the request, by its pointer in the question


@dataclass(frozen=True)
class Inference:
    """What one request asks: questions, picture after picture, and what becomes of their answers.

    id: the request's own name for itself.
    method: what is counted as asked for: a method, or `predict`.
    lowered: the priority that it has, where it asked for a higher one.
    """

    id: str | None
    method: str
    questions: tuple[Question, ...]
    asked: tuple[_Output, ...]
    facts: Facts
    lowered: int | None = None

    @staticmethod
    def read(body: bytes, length: str | None, facts: Facts, most: int = 10) -> "Inference":
        """Take a request apart. Pictures sent as pixels are packed: not for an event loop.

        Args:
            body: JSON, and perhaps binary data behind it.
            length: how many bytes of it are JSON; None: all.
            facts: of the model that is asked.
            most: the highest priority that the caller may have; what is above it is lowered.

        Raises:
            MalformedRequest: it is no such body.
            InvalidParameter: with the wrong field's pointer.
        """
        document, raw = tensors.split(body, length)
        check({name: value for name, value in document.items() if name != "inputs"})
        inputs = tensors.read(document, raw)
        parameters = _object(document, "parameters", "/parameters")
        identity = document.get("id")
        if identity is not None and not isinstance(identity, str):
            raise InvalidParameter.at("/id", "an id is a text")
        named = {one.name: one for one in inputs}
        for one in inputs:
            if one.name not in INPUTS:
                raise InvalidParameter.at(
                    f"{one.pointer}/name", f"no input {quoted(one.name)}; there are {', '.join(INPUTS)}"
                )
        if len(named) != len(inputs):
            raise InvalidParameter.at("/inputs", "an input is sent twice")
        if "image" not in named:
            raise InvalidParameter.at("/inputs", "send the picture as an input called 'image'")
        asked = _outputs(document, parameters, facts)
        _all_aimed(named, asked)
        pictures = _pictures(named["image"])
        bounded(len(pictures) * len(asked), f"{named['image'].pointer}/shape")
        fields = {"model": facts.name} | _shared(parameters)
        asked_for = fields.get("priority", 0)
        lowered = most if asked_for > most else None
        if lowered is not None:
            fields["priority"] = lowered
        aimed: dict[str, Any] = {}
        if "targets" in named:
            aimed["targets"] = _targets(named["targets"])
        if "pictures" in named:
            aimed["pictures"] = _pictures(named["pictures"])
        questions: list[Question] = []
        for output in (distinct := _distinct(asked)):
            pointer = _pointing(named, 0, output)
            with placed(pointer):
                questions.append(_question(output, fields, pictures[0], aimed, facts, pointer))
        # The others differ by their pictures alone, and are right where the first one's are.
        for i, picture in enumerate(pictures[1:], 1):
            for output, first in zip(distinct, questions[: len(distinct)], strict=True):
                ask = replace(first.ask, pictures=(picture,)) if first.ask.pictures else first.ask
                questions.append(Question(ask, first.format, _pointing(named, i, output)))
        methods = [one.method for one in asked if one.method is not None]
        return Inference(identity, (methods or ["predict"])[0], tuple(questions), asked, facts, lowered)

    @property
    def binary(self) -> list[bool]:
        """Which outputs are sent in binary."""
        return [one.binary for one in self.asked]

    def tensors(self, answers: Sequence[bytes]) -> list[Tensor]:
        """Return the outputs in the order in which they were asked for, of the questions' answers.

        Raises:
            InvalidParameter: pictures have different numbers of maps.
        """
        distinct = _distinct(self.asked)
        keys = [_key(one) for one in distinct]
        by = {key: answers[i :: len(distinct)] for i, key in enumerate(keys)}
        return [self._tensor(one, by[_key(one)]) for one in self.asked]

    def _tensor(self, asked: _Output, answers: Sequence[bytes]) -> Tensor:
        if asked.name in (EXPLANATION, PREDICTION):
            return tensors.texts(asked.name, answers)
        arrays = [np.load(io.BytesIO(one), allow_pickle=False) for one in answers]
        if asked.method is not None:
            if len({one.shape for one in arrays}) > 1:
                raise InvalidParameter.at(asked.pointer, "the pictures have different numbers of maps; send one alone")
            return tensors.array(asked.name, np.stack(arrays))
        table = np.stack([one[outputs.names(self.facts).index(asked.name)] for one in arrays])
        return self._classified(asked, table) if asked.classes is not None else tensors.array(asked.name, table)

    def _classified(self, asked: _Output, table: "np.ndarray[Any, Any]") -> Tensor:
        best = np.argsort(-table, axis=1, kind="stable")[:, : asked.classes]
        said = [f"{table[i, k]:.6f}:{k}:{self.facts.label(int(k))}".encode() for i, row in enumerate(best) for k in row]
        return tensors.texts(asked.name, said, best.shape)


def _key(one: _Output) -> tuple[str, str]:
    """What makes two outputs come of one question: all columns are of one forward."""
    if one.method is None:
        return (PREDICTION if one.name == PREDICTION else "columns", "")
    return one.name, one.method


def _distinct(asked: Sequence[_Output]) -> list[_Output]:
    found: dict[tuple[str, str], _Output] = {}
    for one in asked:
        found.setdefault(_key(one), one)
    return list(found.values())


def _question(
    one: _Output,
    fields: dict[str, Any],
    picture: bytes | str,
    aimed: dict[str, Any],
    facts: Facts,
    pointer: Callable[[str], str],
) -> Question:
    if one.method is None:
        row = outputs.PREDICTIONS if one.name == PREDICTION else outputs.table(facts)
        return Question(outputs.whole(Ask.predict(fields, picture), facts), row, pointer)
    aimed = aimed if registry()[one.method].takes_targets else {}
    row = formats.JSON if one.name == EXPLANATION else outputs.MAPS
    sent = picture if registry()[one.method].needs_image else None
    return Question(Ask.explain(one.method, fields | aimed | one.fields, sent), row, pointer)


def _object(place: dict[str, Any], name: str, pointer: str) -> dict[str, Any]:
    found = place.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidParameter.at(pointer, f"{name} are an object")
    return found


def _shared(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of every question that a request's parameters set; the protocol's units become ours.

    Raises:
        InvalidParameter: one has a value that it cannot have.
    """
    fields = {name: parameters[name] for name in _FIELDS if name in parameters}
    timeout, priority = parameters.get("timeout"), parameters.get("priority")
    for name, value in (("timeout", timeout), ("priority", priority)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            unit = "microseconds" if name == "timeout" else "1 for the highest, and 0 for the default"
            raise InvalidParameter.at(f"/parameters/{name}", f"{name} is a whole number, {unit}")
    if timeout:
        fields["timeout_s"] = timeout / 1e6
    if priority:
        fields["priority"] = max(-10, 11 - priority)
    return fields


def _outputs(document: dict[str, Any], parameters: dict[str, Any], facts: Facts) -> tuple[_Output, ...]:
    """Return the outputs that are asked for; where none are named, the network's own.

    Raises:
        InvalidParameter: there is none of that name, or a parameter that nothing reads.
    """
    known = (*outputs.names(facts), PREDICTION, EXPLANATION, *registry())
    sent = document.get("outputs")
    if sent is None or sent == []:
        sent = [{"name": outputs.names(facts)[-1] if outputs.names(facts) else PREDICTION}]
    if not isinstance(sent, list):
        raise InvalidParameter.at("/outputs", "outputs are a list")
    binary = _flag(parameters, "binary_data_output", "/parameters") or False
    found: list[_Output] = []
    for i, one in enumerate(sent):
        pointer = f"/outputs/{i}"
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in known:
            near = did_you_mean(name if isinstance(name, str) else "", known, then="see the model's metadata")
            raise InvalidParameter.at(f"{pointer}/name", f"there is no output {quoted(name)}{near}")
        if any(name == other.name for other in found):
            raise InvalidParameter.at("/outputs", "an output is named twice")
        own = _object(one, "parameters", f"{pointer}/parameters")
        found.append(_output(name, own, parameters, pointer, binary))
    _all_read(parameters, found)
    return tuple(found)


def _output(name: str, own: dict[str, Any], shared: dict[str, Any], pointer: str, binary: bool) -> _Output:
    method = name if name in registry() else None
    for key in own:
        tensors.check_extension(key, f"{pointer}/parameters")
    if name == EXPLANATION:
        method = own.get("method", shared.get("method", DEFAULT))
        if not isinstance(method, str) or method not in registry():
            near = did_you_mean(method if isinstance(method, str) else "", registry(), then="see /methods")
            where = f"{pointer}/parameters/method" if "method" in own else "/parameters/method"
            raise InvalidParameter.at(where, f"there is no method {quoted(method)}{near}")
    flag, classes = _flag(own, "binary_data", f"{pointer}/parameters"), own.get("classification")
    if classes is not None and (type(classes) is not int or classes < 1 or method is not None or name == PREDICTION):
        where = f"{pointer}/parameters/classification"
        raise InvalidParameter.at(where, "how many classes: from 1 on, of an output of numbers")
    read = (*_OUTPUTS, "method") if name == EXPLANATION else tuple(_OUTPUTS)
    named = {key: value for key, value in own.items() if key not in read}
    fields: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    if name == EXPLANATION:  # nothing is drawn of the others
        fields["output"] = _under(_DRAWN, shared) | _under(_DRAWN, named)
        for where, of in (("/parameters", shared), (f"{pointer}/parameters", named)):
            places |= {f"/output/{escaped(key)}": f"{where}/output.{escaped(key)}" for key in _under(_DRAWN, of)}
        named = {key: value for key, value in named.items() if not key.startswith(f"{_DRAWN}.")}
    if method is not None:
        fields["params"] = _under(method, shared) | _under(name, shared) | named
        for first in (method, name):
            places |= {
                f"/params/{escaped(key)}": f"/parameters/{first}.{escaped(key)}" for key in _under(first, shared)
            }
        places |= {f"/params/{escaped(key)}": f"{pointer}/parameters/{escaped(key)}" for key in named}
    elif named:
        raise InvalidParameter.at(
            f"{pointer}/parameters", f"{name} takes no parameters but binary_data, classification"
        )
    return _Output(name, pointer, binary if flag is None else flag, classes, method, fields, places)


def _under(prefix: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that are called PREFIX.NAME, by their NAME."""
    return {key.partition(".")[2]: value for key, value in parameters.items() if key.startswith(f"{prefix}.")}


def _flag(place: dict[str, Any], name: str, pointer: str) -> bool | None:
    value = place.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidParameter.at(f"{pointer}/{name}", f"{name} is true or false")
    return value


def _all_read(parameters: dict[str, Any], asked: Sequence[_Output]) -> None:
    """Refuse parameters of a request that nothing reads: whoever sends them means something by them."""
    readers = {one.method for one in asked} | {one.name for one in asked}
    if EXPLANATION in readers:
        readers.add(_DRAWN)
    for name in parameters:
        first, dot, _ = name.partition(".")
        if name == "method" and EXPLANATION not in readers:
            remedy = f"name the method itself in outputs, or {EXPLANATION}"
            raise InvalidParameter.at("/parameters/method", f"no output asks for an explanation by it; {remedy}")
        if name in _OUR_OWN or (dot and first in readers):
            continue
        tensors.check_extension(name, "/parameters")
        pointer = f"/parameters/{escaped(name)}"
        if name in _OUTPUTS:
            raise InvalidParameter.at(pointer, f"a request has no {name}; {_OUTPUTS[name]}")
        if dot and first in registry():
            raise InvalidParameter.at(pointer, f"no output asks for {first}; name it in outputs")
        then = "a method's own are METHOD.NAME"
        near = did_you_mean(name, _OUR_OWN, then=then)
        raise InvalidParameter.at(pointer, f"nothing reads this parameter{near}")


def _all_aimed(named: dict[str, Tensor], asked: Sequence[_Output]) -> None:
    """Refuse targets, and pictures that they name, where no output is about them."""
    methods = [one.method for one in asked if one.method is not None]
    for name in ("targets", "pictures"):
        if name in named and not any(registry()[method].takes_targets for method in methods):
            raise InvalidParameter.at(
                named[name].pointer, f"no output takes {name}; leave them out, or name a method in outputs that does"
            )


def _pictures(sent: Tensor) -> list[bytes | str]:
    """Return the pictures' files: as they were sent, or packed of pixels (N, H, W, 3) or (H, W, 3)."""
    if sent.datatype == "BYTES":
        return list(sent.values)
    if sent.datatype != "UINT8":
        raise InvalidParameter.at(
            f"{sent.pointer}/datatype", "a picture is BYTES (a file; in JSON its base64) or UINT8 (pixels, H x W x 3)"
        )
    pixels = sent.values[None] if sent.values.ndim == 3 else sent.values
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape[1:]:
        raise InvalidParameter.at(f"{sent.pointer}/shape", "pixels are (N, height, width, 3) or (height, width, 3)")
    bounded(len(pixels), f"{sent.pointer}/shape")
    return [_file(one) for one in pixels]


def _file(pixels: "np.ndarray[Any, Any]") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "BMP")
    return buffer.getvalue()


def _targets(sent: Tensor) -> list[Any]:
    """Return targets: indices; or texts, which are labels or, where they begin with a brace, objects in JSON."""
    pointer = f"{sent.pointer}/data"
    if len(sent.shape) != 1:
        raise InvalidParameter.at(
            f"{sent.pointer}/shape",
            f"targets are one list, of shape [{math.prod(sent.shape)}], which holds for each picture; send pictures "
            "with targets of their own in requests of their own",
        )
    if sent.datatype != "BYTES":
        if sent.values.dtype.kind not in "iu":
            raise InvalidParameter.at(f"{sent.pointer}/datatype", "targets are whole numbers or BYTES")
        return [int(one) for one in sent.values]
    if (length := sum(map(len, sent.values))) > _TEXT:
        raise InvalidParameter.at(pointer, f"the targets have {length:,} characters; at most {_TEXT:,} are read")
    found = [_target(one, f"{pointer}/{i}") for i, one in enumerate(sent.values)]
    with placed(lambda inner: pointer + inner.removeprefix("/targets")):
        check({"targets": found})
    return found


def _target(value: bytes | str, pointer: str) -> Any:
    try:
        text = value.decode() if isinstance(value, bytes) else value
        return loaded(text.encode(), "the target") if text.lstrip().startswith("{") else text
    except ServiceError as error:
        raise InvalidParameter.at(pointer, error.detail) from None
    except ValueError:
        raise InvalidParameter.at(pointer, "neither a label in UTF-8 nor a JSON object") from None


def _pointing(inputs: dict[str, Tensor], i: int, one: _Output) -> Callable[[str], str]:
    """Return how a pointer into a question of picture i becomes one into the request."""

    def pointer(inner: str) -> str:
        first, _, rest = inner.removeprefix("/").partition("/")
        if first == "image":
            place = inputs["image"].pointer
            return f"{place}/data/{i}" if inputs["image"].datatype == "BYTES" else place
        if first in ("targets", "pictures") and first in inputs:
            place = inputs[first].pointer
            return f"{place}/data{rest and f'/{rest}'}" if inputs[first].datatype != "UINT8" else place
        if first in ("params", _DRAWN):
            name, slash, within = rest.partition("/")
            if (own := one.places.get(f"/{first}/{name}")) is not None:
                return own + slash + within
            return f"/parameters/{_DRAWN}.{rest}" if first == _DRAWN else f"{one.pointer}/parameters/{rest}"
        return f"/parameters/{ {'timeout_s': 'timeout'}.get(first, inner.removeprefix('/')) }"

    return pointer
