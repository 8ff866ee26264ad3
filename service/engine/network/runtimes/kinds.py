"""The libraries that can run a network's forwards in PyTorch's place: how a network gets into them."""

import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

Rows = Callable[[Tensor], Tensor]
"""Inputs (N, C, H, W) to answers (N, ...), float32 on the processor, for any N."""


class Kind(Protocol):
    """One library."""

    @property
    def name(self) -> str:
        """The library's name: what `usage` says, and what the extra is called."""
        ...

    @property
    def release(self) -> str:
        """Which version of it would be used."""
        ...

    def installed(self) -> bool:
        """Whether all is there that exporting and running take."""
        ...

    def export(self, network: nn.Module, x: Tensor, folder: Path) -> None:
        """Write a network, in float32, for batches of any size of inputs like x (N, C, H, W). Takes long."""
        ...

    def open(self, folder: Path, threads: int) -> Rows:
        """Load what was written, to be run on so many cores."""
        ...


def _found(modules: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


class OnnxRuntime:
    """ONNX Runtime: one session for all sizes of a batch."""

    name = "onnxruntime"
    _FILE = "network.onnx"

    @property
    def release(self) -> str:
        """See `Kind.release`."""
        return version("onnxruntime")

    def installed(self) -> bool:
        """See `Kind.installed`."""
        return _found(("onnxruntime", "onnx", "onnxscript"))

    def export(self, network: nn.Module, x: Tensor, folder: Path) -> None:
        """See `Kind.export`."""
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.onnx.export(network, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        assert program is not None
        program.save(folder / self._FILE)

    def open(self, folder: Path, threads: int) -> Rows:
        """See `Kind.open`; its threads do not spin: PyTorch's would wait for the cores that they hold."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(folder / self._FILE, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(rows: Tensor) -> Tensor:
            (answer,) = session.run(None, {name: rows.numpy()})
            return torch.from_numpy(answer)

        return run


class OpenVINO:
    """OpenVINO: one compiled network for all sizes of a batch, in float32 whatever the processor would prefer."""

    name = "openvino"
    _FILE = "network.xml"

    @property
    def release(self) -> str:
        """See `Kind.release`."""
        return version("openvino")

    def installed(self) -> bool:
        """See `Kind.installed`."""
        return _found(("openvino",))

    def export(self, network: nn.Module, x: Tensor, folder: Path) -> None:
        """See `Kind.export`."""
        import openvino

        converted = openvino.convert_model(network, example_input=x, input=[-1, *x.shape[1:]])
        openvino.save_model(converted, folder / self._FILE, compress_to_fp16=False)

    def open(self, folder: Path, threads: int) -> Rows:
        """See `Kind.open`."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(folder / self._FILE, "CPU", settings)
        request = compiled.create_infer_request()

        def run(rows: Tensor) -> Tensor:
            (answer,) = request.infer([rows.numpy()]).to_tuple()
            return torch.from_numpy(answer).clone()  # the next inference overwrites it

        return run


KINDS: Sequence[Kind] = (OnnxRuntime(), OpenVINO())
"""Those that are tried, the likeliest first."""
