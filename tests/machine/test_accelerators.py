"""The device that there is, whatever its kind, is chosen where methods can compute on it."""

from types import SimpleNamespace

import pytest
import torch

from service.errors import CatalogError
from service.machine import accelerators
from service.machine.accelerators import (
    choose_device,
    memory_bytes,
    name_of,
    release_memory,
    reserved_bytes,
    synchronise,
)
from service.settings import BATCH_MIB, BATCH_MS, TRACES, Settings

CPU = torch.device("cpu")


@pytest.fixture
def there(monkeypatch):
    """Pretend that there are so many devices of a kind, with or without float64."""

    def pretend(kind, count=1, lacks=None):
        found = torch.device(kind) if count else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(accelerators, "_lacks", lambda device: lacks)

    return pretend


@pytest.mark.parametrize(
    ("wanted", "kind", "count", "chosen"),
    [
        ("auto", "cuda", 0, "cpu"),
        ("auto", "cuda", 2, "cuda:0"),
        ("auto", "xpu", 1, "xpu:0"),
        ("auto", "mps", 1, "mps:0"),
        ("cpu", "cuda", 2, "cpu"),
        ("cuda", "cuda", 1, "cuda"),
        ("cuda:1", "cuda", 2, "cuda:1"),
        ("xpu:1", "xpu", 2, "xpu:1"),
    ],
)
def test_a_device_is_chosen(there, wanted, kind, count, chosen) -> None:
    there(kind, count)
    assert choose_device(wanted) == torch.device(chosen)


@pytest.mark.parametrize(
    ("wanted", "kind", "count", "told"),
    [
        ("cuda", "cuda", 0, "there are 0 CUDA devices; use cpu or auto"),
        ("cuda:2", "cuda", 2, "there are 2 CUDA devices; use cpu or auto"),
        ("cuda", "xpu", 1, "there are 0 CUDA devices"),
        ("mps", "cuda", 1, "there are 0 mps devices"),
    ],
)
def test_a_device_that_is_not_there_is_refused(there, wanted, kind, count, told) -> None:
    there(kind, count)
    with pytest.raises(CatalogError, match=f"--device {wanted}: {told}"):
        choose_device(wanted)


def test_a_device_that_methods_cannot_compute_on_is_not_used(there, caplog) -> None:
    there("mps", lacks="it has no float64")
    with pytest.raises(CatalogError, match="--device mps: it has no float64; use cpu"):
        choose_device("mps")
    assert choose_device("auto") == CPU
    assert "mps:0 is not used: it has no float64" in caplog.text


def test_float64_is_tried_and_not_believed(monkeypatch) -> None:
    assert accelerators._lacks(CPU) is None

    def refuse(*_, **__):
        raise TypeError("Cannot convert to float64\nmore")

    monkeypatch.setattr(torch, "ones", refuse)
    assert accelerators._lacks(CPU) == "it has no float64, which methods add up in (Cannot convert to float64)"


def test_products_on_cuda_are_not_rounded_to_ten_bits(there) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    there("cuda")
    choose_device("auto")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_processor_has_nothing_to_wait_for_or_give_back() -> None:
    synchronise(CPU)
    release_memory(CPU)
    assert (memory_bytes(CPU), reserved_bytes(CPU), name_of(CPU)) == (0, 0, None)


def test_each_kind_is_asked_by_its_own_module(monkeypatch) -> None:
    asked = []
    stream = SimpleNamespace(synchronize=lambda: asked.append("waited"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda device: 8)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: "one of Intel's")
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: asked.append("freed"))
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 9)
    xpu, mps = torch.device("xpu:0"), torch.device("mps")
    synchronise(xpu)
    release_memory(xpu)
    assert asked == ["waited", "freed"]
    assert (memory_bytes(xpu), memory_bytes(mps), reserved_bytes(xpu), reserved_bytes(mps)) == (7, 9, 8, 0)
    assert (name_of(xpu), name_of(mps)) == ("one of Intel's", None)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:3", "xpu:1", "mps"])
def test_every_kind_that_may_be_named_has_its_bounds(device) -> None:
    kind = torch.device(Settings(device=device).device).type
    assert all(kind in bounds for bounds in (BATCH_MS, BATCH_MIB, TRACES))
