"""ncnn beside the ways that the service has: its rate is told with the ceiling, and not counted as it.

It multiplies small convolutions by Winograd's algorithm (Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural
Networks"), which PyTorch's float32 on processors does not; but it knows no batches, and cannot run every network.
`pip install ncnn pnnx` brings it.
"""

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tests import oracles

NAME = "ncnn float32"
_AGREE = 1e-3  # largest difference of its outputs, over the largest output


def installed() -> bool:
    """Whether ncnn, and what translates networks for it, are there."""
    return all(importlib.util.find_spec(module) is not None for module in ("ncnn", "pnnx"))


def opened(network: nn.Module, x: Tensor, folder: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Translate a network, and return what runs rows (N, C, H, W) one after the other.

    Raises:
        RuntimeError: it cannot be translated, or answers otherwise there.
    """
    import ncnn
    import pnnx

    x = x[:1].contiguous()
    file = folder / "network.pt"
    with torch.no_grad():
        torch.jit.trace(network, x).save(str(file))  # type: ignore[no-untyped-call]
        expected = network(x)
    os.chmod(pnnx.EXEC_PATH, 0o755)  # a folder that packages are unpacked into may lose it
    shape = ",".join(map(str, x.shape))
    command = [pnnx.EXEC_PATH, file.name, f"inputshape=[{shape}]", "fp16=0"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if said.returncode:
        raise RuntimeError(f"pnnx: {said.stderr.strip()[-200:]}")
    net = ncnn.Net()
    for reduced in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{reduced}", False)
    net.opt.num_threads = threads
    if net.load_param(str(folder / "network.ncnn.param")) or net.load_model(str(folder / "network.ncnn.bin")):
        raise RuntimeError("ncnn cannot load what pnnx made of the network")

    def run(rows: Tensor) -> Tensor:
        found = []
        for row in rows.numpy():
            one = net.create_extractor()
            one.input("in0", ncnn.Mat(row))
            status, out = one.extract("out0")
            if status:
                raise RuntimeError(f"ncnn cannot run the network: {status}")
            found.append(torch.tensor(out.numpy().reshape(-1)))
        return torch.stack(found)

    if (apart := oracles.relative_error(run(x), expected)) > _AGREE:
        raise RuntimeError(f"ncnn answers otherwise: by {apart:.1g}")
    return run
