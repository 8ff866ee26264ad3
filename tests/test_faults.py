"""Each thing that may fail is made to fail in turn, under every route: the right error, nothing left, and the next
request is right.

The table is of hook points: where something of the outside world or of a network's own code comes in. Methods and
routes are those of the registry, so that a later one is in it.
"""

import base64
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from service.api.context import Context
from service.app import create_app
from service.codec.child import Absent, Lost
from service.codec.choosing import limits
from service.codec.processes import Processes, Seat
from service.engine.scheduler.run import Run
from service.explainers.base import Explainer, registry
from service.settings import Settings
from tests.api.test_bad_input import PNG
from tests.conftest import CATALOG, serving_app
from tests.tiny import model_of

COUNTS = ("steps", "samples", "designs", "masks", "count", "channels")  # parameters that say how much is done
PATHS = ["/predict", *(f"/explain/{name}" for name in registry())]
PATIENCE_S = 60.0


def _least(cls: type[Explainer]) -> Iterator[tuple[str, Any]]:
    """Give the least values of a method's parameters that say how much is done."""
    for name, info in cls.model_fields.items():
        least = next((one.ge for one in info.metadata if hasattr(one, "ge")), None)
        if name in COUNTS and isinstance(info.default, int) and least is not None:
            yield name, least
        elif name == "channels" and info.default:
            yield name, info.default[:1]


class World:
    """A server, and what a fault may lay its hands on."""

    def __init__(self, client: httpx.Client, service: Context) -> None:
        self.client, self.service = client, service
        self.undo: Callable[[], None] = lambda: None
        self._ended = threading.Condition()
        release = service.device.admission.release

        def released(run: Run) -> None:
            release(run)
            with self._ended:
                self._ended.notify_all()

        service.device.admission.release = released  # type: ignore[method-assign]

    def ask(self, path: str, **more: Any) -> httpx.Response:
        """Ask for an explanation, or a prediction, of one picture."""
        name = path.rpartition("/")[2]
        fields: dict[str, Any] = {"model": model_of(name) if name in registry() else "tiny"}
        if name not in registry() or registry()[name].needs_image:
            fields["image"] = base64.b64encode(PNG).decode()
        if name in registry():
            fields["params"] = dict(_least(registry()[name]))
            fields["output"] = {"array": "base64"}
        return self.client.post(path, json=fields | more)

    def nothing_is_left(self) -> bool:
        """Wait until no request is waited for; return whether that has come, and nothing is held."""
        device = self.service.device
        with self._ended:
            ended = self._ended.wait_for(lambda: device.admission.waiting_requests == 0, PATIENCE_S)
        device.call(lambda: None)  # after all that its thread was about
        room = self.service.pipeline.codec.room
        return ended and device.waiting == 0 and room.held == 0 and not any(room._inside.values())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    app = create_app(Settings(catalog=CATALOG, device="cpu", score_cache_mib=0))
    with serving_app(app) as client:
        yield World(client, app.state.context)


# The table


@dataclass(frozen=True)
class Fault:
    """One hook point.

    break_: makes it fail, by a monkeypatch that is undone afterwards.
    types: problem types of which a route that comes there answers one.
    reached: whether a method comes there; None stands for `/predict`.
    logged: whether the log has to hold the cause.
    late: whether it is met only after all of a method's work.
    """

    break_: Callable[[pytest.MonkeyPatch, World], None]
    types: frozenset[str]
    reached: Callable[[str | None], bool] = lambda name: True
    logged: bool = False
    late: bool = False


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def _networks(monkeypatch: pytest.MonkeyPatch, world: World, change: Callable[[Any], Any]) -> None:
    """Let the last layer of every network answer in another way."""

    def changed(module: nn.Module, given: Any, answer: Any) -> Any:
        return change(answer) if isinstance(module, nn.Linear) and module.out_features in (1, 5) else None

    handle = register_module_forward_hook(changed)
    monkeypatch.setattr(world, "undo", handle.remove)
    for entry in world.service.store.entries.values():
        monkeypatch.setattr(entry.model, "incremental", None)  # which computes by itself, layer after layer


def _fails(error: BaseException) -> Callable[[pytest.MonkeyPatch, World], None]:
    return lambda monkeypatch, world: _networks(monkeypatch, world, _raising(error))


def _answers(change: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch, World], None]:
    return lambda monkeypatch, world: _networks(monkeypatch, world, change)


def _patched(where: str, error: BaseException) -> Callable[[pytest.MonkeyPatch, World], None]:
    return lambda monkeypatch, world: monkeypatch.setattr(where, _raising(error))


def _absent(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Let processes decode and draw, of which none can be started."""
    pipeline = world.service.pipeline
    monkeypatch.setattr("service.codec.processes.Process", _raising(Absent("a secret")))
    monkeypatch.setattr(pipeline, "codec", Processes(limits(pipeline.settings), 1, 1))


def _lost(why: str) -> Callable[[pytest.MonkeyPatch, World], None]:
    """Let processes decode and draw, each of which ends in its job, in the second one, too."""

    def lose(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        _absent(monkeypatch, world)
        monkeypatch.setattr(Seat, "ask", _raising(Lost(why, "SIGKILL")))

    return lose


def _late(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Let a request's time be up as soon as it is let in."""
    limit = Run.limit

    def limited(run: Run, timeout_s: float | None, priority: int) -> None:
        limit(run, 1e-9 if timeout_s is not None else None, priority)

    monkeypatch.setattr(Run, "limit", limited)


def _pictured(name: str | None) -> bool:
    return name is None or registry()[name].needs_image


def _explained(name: str | None) -> bool:
    return name is not None


FAILED = frozenset({"model-failed"})
FAULTS = {
    "forward raises": Fault(_fails(ValueError("a secret")), FAILED, _pictured, True),
    "allocation": Fault(_fails(torch.OutOfMemoryError("CUDA out of memory")), frozenset({"out-of-memory"}), _pictured),
    "allocation in Python": Fault(_fails(MemoryError()), frozenset({"out-of-memory"}), _pictured),
    "row count": Fault(_answers(lambda answer: answer[:0]), FAILED, _pictured),
    "columns": Fault(_answers(lambda answer: answer[:, :0]), FAILED, _pictured),
    "a tuple": Fault(_answers(lambda answer: (answer,)), FAILED, _pictured),
    "dtype": Fault(_answers(lambda answer: answer.to(torch.int32)), FAILED, _pictured),
    "not a number": Fault(
        _answers(lambda answer: answer * float("nan")), frozenset({"model-output"}), _pictured, late=True
    ),
    "time": Fault(_late, frozenset({"deadline-exceeded"})),
    "decoder": Fault(
        _patched("service.images.decoding._open", OSError("damaged")), frozenset({"unprocessable-image"}), _pictured
    ),
    "memory of a decoder": Fault(
        _patched("service.images.decoding._open", MemoryError()),
        frozenset({"unprocessable-image", "out-of-memory"}),
        _pictured,
    ),
    "scaling": Fault(
        _patched("service.codec.inside.prepare", ZeroDivisionError("a secret")),
        frozenset({"internal-error"}),
        _pictured,
        True,
    ),
    "drawing": Fault(
        _patched("service.pipeline.shown", ZeroDivisionError("a secret")),
        frozenset({"internal-error"}),
        _explained,
        logged=True,
        late=True,
    ),
    "codec process": Fault(_lost("killed"), frozenset({"codec-unavailable"})),
    "codec process that crashes": Fault(_lost("crash"), frozenset({"unprocessable-image", "codec-unavailable"})),
    "codec process that hangs": Fault(_lost("time"), frozenset({"unprocessable-image", "invalid-parameter"})),
    "no codec process": Fault(_absent, frozenset(), lambda name: False),
    "encoding": Fault(
        _patched("service.api.formats.dumps", ZeroDivisionError("a secret")),
        frozenset({"internal-error"}),
        logged=True,
        late=True,
    ),
    "admission": Fault(
        _patched("service.engine.scheduler.device.Device.put", ZeroDivisionError("a secret")),
        frozenset({"internal-error"}),
        logged=True,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_to_whom_it_meets_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    row, turn = FAULTS[fault], list(FAULTS).index(fault)
    # Each method meets some of the faults: all of all would take minutes.
    each = 12 if row.late else 5
    paths = PATHS[turn % each :: each]
    with monkeypatch.context() as patching:
        row.break_(patching, world)
        try:
            for path in paths:
                name = path.rpartition("/")[2]
                caplog.clear()
                answer = world.ask(path)
                if not row.reached(name if name in registry() else None):
                    assert answer.status_code == 200, f"{path}: {answer.text}"
                    continue
                assert answer.status_code >= 400, path
                found = answer.json()
                assert found["type"].rpartition(":")[2] in row.types, f"{path}: {found}"
                assert "secret" not in answer.text
                if row.logged:
                    assert "a secret" in caplog.text or any("a secret" in str(vars(one)) for one in caplog.records)
        finally:
            world.undo()
    assert world.nothing_is_left()
    assert world.service.device.alive
    for path in ("/predict", "/explain/grad-cam", "/explain/occlusion"):
        assert world.ask(path).status_code == 200
