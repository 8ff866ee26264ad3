"""The job that tests every method on a model: in the background, a batch at a time, whenever nobody else waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import Tensor

from service import __version__, kept
from service.client import wire
from service.contract import Clean, Map, Readout, Target, Targets, View
from service.engine.known import alike, answer_of
from service.engine.network.resident import Model
from service.engine.probe import ModelProbe, Strongest
from service.engine.scheduler.device import Device
from service.engine.scheduler.run import IDLE, Run
from service.engine.scheduler.work import rows_key
from service.errors import EngineUnavailable, NotApplicable, OutOfMemory, ServiceError
from service.explainers.base import Explainer, registry
from service.faithfulness.likeness import spearman, ssim
from service.faithfulness.ordering import flat
from service.images import crops
from service.models.spec import ModelSpec
from service.precision import DTYPES
from service.process import out_of_memory
from service.sanity.cutting import MOST, cut
from service.sanity.permuting import permute
from service.sanity.verdict import UNTESTED, Pairs, verdict
from service.settings import Settings

log = logging.getLogger("heatlens")
BUDGET = 80_000  # passes of all methods on a model
STAGED = 64  # passes of a map up to which all stages are looked at
STAGES = (0.25, 0.5, 0.75)  # of the layers; and all of them


@dataclass
class _Asked:
    """What one method is asked: made cheap, its layers and classes fixed by the resident network."""

    method: Explainer
    passes: int  # of a map
    channels: int | None  # that it sees, the strongest ones; None: all
    pairs: Pairs
    failed: str | None = None  # why it could not be tested


@dataclass(frozen=True)
class _Picture:
    x: Tensor  # (1, C, H, W)
    targets: tuple[Target, ...]  # what the resident network says of it
    low: Target | None
    readout: Readout | None


@dataclass(frozen=True)
class _Copy:
    """A network with permuted weights."""

    model: Model
    lacked: int  # how often others had lacked memory when it was built


@dataclass(frozen=True)
class _Test:
    """What one model is tested on, and what is known of it."""

    spec: ModelSpec
    model: Model
    pictures: Sequence[_Picture]
    closing: threading.Event
    known: dict[str, wire.Sanity]


@dataclass(frozen=True)
class _Stored:
    """A file's form, whoever wrote it."""

    answer: list[FiniteFloat]  # of the network, to the probe picture
    verdicts: dict[str, wire.Sanity]


_FORM = TypeAdapter(_Stored)


class Verifier:
    """Tests methods on models, and remembers what it found."""

    def __init__(self, device: Device, settings: Settings, *, tests: bool = True) -> None:
        """Know nothing yet.

        Args:
            device: where models run.
            settings: say where verdicts are kept.
            tests: whether models are tested here while the device is idle, and not only told what was found earlier.
        """
        self.device, self.settings, self.tests = device, settings, tests
        self.found: dict[str, dict[str, wire.Sanity]] = {}  # by model version and method
        self._answers: dict[str, list[float]] = {}  # to the probe picture, by model version

    def verdict(self, version: str, method: str) -> wire.Sanity | None:
        """Return what is known of a method on a model; None where nothing is, nor will be."""
        return self.found.get(version, {}).get(method, UNTESTED if self.tests else None)

    def recall(self, model: Model) -> None:
        """Take over what an earlier process found of a model.

        To be called before it is served, on the thread that alone has it.
        """
        self.found[model.version] = self._recalled(model, partial(answer_of, model))

    def verify(
        self, spec: ModelSpec, model: Model, closing: threading.Event, only: Sequence[str] | None = None
    ) -> Mapping[str, wire.Sanity]:
        """Test all methods on a model, or some; what was found by an earlier version of this start stands.

        Raises:
            EngineUnavailable: the server is closing.
        """
        if model.version not in self.found:
            self.found[model.version] = self._recalled(model, partial(self._answer, model))
        known = self.found[model.version]
        wanted = [name for name in (only or registry()) if known.get(name, UNTESTED).verdict == "not yet tested"]
        if not wanted:
            return known
        asked = self._asked(model, wanted, known)
        pictures = self._pictures(model, closing)
        if isinstance(pictures, str):
            known |= {name: wire.Sanity(verdict="not yet tested", reason=pictures) for name in asked}
            return known
        test = _Test(spec, model, pictures, closing, known)
        try:
            self._all_stages(test, {name: one for name, one in asked.items() if one.passes <= STAGED})
            self._last_stage(test, {name: one for name, one in asked.items() if one.passes > STAGED})
        except Exception as error:
            if not _memory(error):
                raise
            untested = wire.Sanity(verdict="not yet tested", reason="memory")
            known |= {name: untested for name in asked if known.get(name, UNTESTED).verdict == "not yet tested"}
        return known

    def _all_stages(self, test: _Test, asked: dict[str, _Asked]) -> None:
        """Test methods by copies of which more and more is permuted, a copy at a time."""
        before: dict[str, list[Tensor | None]] = {}
        for name, one in asked.items():
            with _alone(name, one, test):
                before[name] = self._before(one, test)
        for share in (1.0, *STAGES) if before else ():
            with self._copy(test, share) as copy:
                for name in (name for name in before if asked[name].failed is None):
                    with _alone(name, asked[name], test):
                        self._after(copy, share, asked[name], before[name], test)
        self._note(test, asked)

    def _last_stage(self, test: _Test, asked: dict[str, _Asked]) -> None:
        """Test methods by the permuted network alone; what is found of one stands, whatever ends the next."""
        if not asked:
            return
        with self._copy(test, 1.0) as copy:
            for name, one in asked.items():
                with _alone(name, one, test):
                    self._after(copy, 1.0, one, self._before(one, test), test)
                self._note(test, {name: one})

    def _note(self, test: _Test, asked: Mapping[str, _Asked]) -> None:
        """Take down the verdicts of methods that were tested, or the reason why one could not be."""
        for name, one in asked.items():
            failed = wire.Sanity(verdict="not yet tested", reason=one.failed)
            test.known[name] = verdict(one.pairs) if one.failed is None else failed
        self._remember(test.model, test.known)

    def _asked(self, model: Model, wanted: Sequence[str], known: dict[str, wire.Sanity]) -> dict[str, _Asked]:
        """Return the methods that can be tested, the cheapest first; of others the reason is noted."""
        asked: dict[str, _Asked] = {}
        facts, spent = model.facts, 0
        for name in wanted:
            cls = registry()[name]
            try:
                if not cls.needs_image:
                    raise NotApplicable("it looks at no picture")
                cls.require(facts)
                method = cls().settled(facts)
                method, said, passes, channels = cut(method, facts)
                # Another network may have another default layer.
                method = type(method).model_validate(method.resolved(facts))
            except (ServiceError, ValueError) as error:
                reason = getattr(error, "detail", "it needs parameters")
                known[name] = wire.Sanity(verdict="not yet tested", reason=reason)
                continue
            asked[name] = _Asked(method, passes, channels, Pairs(cut=said))
        kept: dict[str, _Asked] = {}
        for name, one in sorted(asked.items(), key=lambda item: item[1].passes):
            spent += 8 * one.passes * (3 + len(STAGES) * (one.passes <= STAGED))
            if spent > BUDGET or one.passes > MOST:
                reason = f"a map takes about {one.passes} passes, more than are spent on it"
                known[name] = wire.Sanity(verdict="not yet tested", reason=reason)
            else:
                kept[name] = one
        return kept

    def _pictures(self, model: Model, closing: threading.Event) -> list[_Picture] | str:
        """Return the crops with what the resident network says of them; or why nothing can be asked of it."""
        facts, found = model.facts, []
        for x in torch.split(crops(model.spec.transform).to(model.device), 1):
            answer = self._probe(model, closing).answer(x)
            if facts.task.looks:
                height, width = facts.input_size
                clean = Clean(answer, View((0, 0, width, height), facts.input_size), _no_picture, _no_picture)
                try:
                    readout, targets = facts.task.bind(None, facts, clean)
                except ServiceError as error:
                    return error.detail
                found.append(_Picture(x, tuple(targets[:1]), None, readout))
                continue
            chosen = tuple(Targets(facts).chosen(answer)[:1])
            low = facts.task.low(answer)
            found.append(_Picture(x, chosen, low if low != chosen[0] else None, None))
        return found

    def _probe(
        self, model: Model, closing: threading.Event, readout: Readout | None = None, *, channels: int | None = None
    ) -> ModelProbe:
        if closing.is_set():
            raise EngineUnavailable("the server is closing")
        run = Run(priority=IDLE)
        if channels is None:
            return ModelProbe(model, self.device, run, "fp32", readout)
        return Strongest(model, self.device, run, "fp32", readout, channels=channels)

    def _map(
        self, model: Model, one: _Asked, picture: _Picture, target: Target | None, closing: threading.Event
    ) -> Tensor | None:
        """Return one number a place; None where there is no map."""
        aims = one.method.takes_targets
        probe = self._probe(model, closing, picture.readout if aims else None, channels=one.channels)
        targets = Targets(model.facts, [target] if aims and target is not None else None)
        try:
            found = one.method.explain(probe, picture.x, targets)
            return _heat(found.maps[0]) if found.maps else None
        except NotApplicable:
            return None
        finally:
            one.pairs.passes += probe.run.done

    def _before(self, one: _Asked, test: _Test) -> list[Tensor | None]:
        """Return the resident network's maps, and note how alike those of a low class are."""
        maps, low = [], []
        for picture in test.pictures:
            maps.append(self._map(test.model, one, picture, picture.targets[0], test.closing))
            if one.method.takes_targets and picture.low is not None:
                low.append(_alike(maps[-1], self._map(test.model, one, picture, picture.low, test.closing)))
        one.pairs.low = low or None
        one.pairs.empty = sum(found is None or flat(found) for found in maps)
        return maps

    def _after(self, copy: _Copy, share: float, one: _Asked, before: Sequence[Tensor | None], test: _Test) -> None:
        """Explain by a copy with a share of its layers permuted, and note how alike its maps are to those before.

        Raises:
            OutOfMemory: somebody needs the memory that the copy takes.
        """
        after = []
        for picture in test.pictures:
            if self.device.limits.lacked_beside(copy.model) > copy.lacked:
                raise OutOfMemory("requests need the memory that a network with permuted weights takes")
            after.append(self._map(copy.model, one, picture, picture.targets[0], test.closing))
        both = list(zip(before, after, strict=True))
        ranks, shapes = [_alike(*pair) for pair in both], [_shaped(*pair) for pair in both]
        if share == 1.0:
            one.pairs.permuted, one.pairs.ssim = ranks, shapes
        else:
            one.pairs.stages.append((share, ranks, shapes))

    @contextmanager
    def _copy(self, test: _Test, share: float) -> Iterator[_Copy]:
        """Build the network anew, which nobody else sees, and permute it."""
        spec = test.spec
        said = list(spec.said)
        network = spec.build()
        spec.said[:] = said
        permute(network, share, torch.cat([picture.x.cpu() for picture in test.pictures]))
        copy = Model(replace(spec, name=f"{spec.name}-permuted"), network, self.device.device)
        try:
            yield _Copy(copy, self.device.limits.lacked_beside(copy))
        finally:
            for precision in DTYPES:  # another network may come to lie where the copy was
                self.device.limits.forget(rows_key(copy, copy.facts.input_shape, precision))

    def _file(self, model: Model) -> Path | None:
        known = {"model": model.version, "heatlens": __version__, "torch": torch.__version__}
        cache = self.settings.cache_dir or kept.folder()
        return None if cache is None else cache / f"sanity-{kept.digest(known)}.json"

    def _recalled(self, model: Model, answer: Callable[[], list[float]]) -> dict[str, wire.Sanity]:
        """Return what an earlier process found of a model that answered as this one does."""
        file = self._file(model)
        stored = kept.read(file, _FORM) if file is not None else None
        if stored is None:
            return {}
        if alike(stored.answer, answer()):
            return stored.verdicts
        log.info("model %s answers otherwise than when its methods were tested", model.facts.name)
        return {}

    def _answer(self, model: Model) -> list[float]:
        """Return what a model that is served answers to the probe picture."""
        return self.device.call(partial(answer_of, model), Run(priority=IDLE))

    def _remember(self, model: Model, known: Mapping[str, wire.Sanity]) -> None:
        if (file := self._file(model)) is None:
            return
        if model.version not in self._answers:
            self._answers[model.version] = self._answer(model)
        tested = {name: one.model_dump() for name, one in known.items() if one.verdict != "not yet tested"}
        kept.write(file, {"answer": self._answers[model.version], "verdicts": tested})


@contextmanager
def _alone(name: str, one: _Asked, test: _Test) -> Iterator[None]:
    """Let a method that fails on this network fail alone; what ends all of the test passes."""
    try:
        yield
    except EngineUnavailable:
        raise
    except Exception as error:
        if _memory(error):
            raise
        if not isinstance(error, ServiceError):
            log.exception("defect while testing %s on model %s", name, test.model.facts.name)
        one.failed = error.detail if isinstance(error, ServiceError) else "the server met a defect of its own"


def _memory(error: Exception) -> bool:
    return isinstance(error, OutOfMemory) or out_of_memory(error)


def _no_picture(i: int) -> Tensor:
    raise NotApplicable("its targets name further pictures")


def _heat(found: Map) -> Tensor:
    """Return one number a place, (h, w), whatever kind the map is of."""
    array = found.array.detach().float().cpu()
    return array.abs().sum(0) if array.ndim == 3 else array


def _alike(a: Tensor | None, b: Tensor | None) -> float | None:
    return spearman(a, b) if a is not None and b is not None and a.shape == b.shape else None


def _shaped(a: Tensor | None, b: Tensor | None) -> float | None:
    return ssim(a, b) if a is not None and b is not None and a.shape == b.shape and not flat(a) else None
