"""A library that is PyTorch itself, so that what is around a library is tried without one."""

import torch


class Saved:
    """Writes a network as it is; `off` is added to what it answers, `most` the rows that it takes."""

    name, release = "onnxruntime", "1"

    def __init__(self, off=0.0, most=2**30, refuses=False, there=True):
        self.off, self.most, self.refuses, self.there = off, most, refuses, there

    def installed(self):
        return self.there

    def export(self, network, x, folder):
        if self.refuses:
            raise NotImplementedError("an operator\nthat nobody knows")
        torch.save(network, folder / "network.pt")

    def open(self, folder, threads):
        network = torch.load(folder / "network.pt", weights_only=False).float()

        def run(rows):
            if len(rows) > self.most:
                raise RuntimeError("too many")
            return network(rows) * (1 + self.off)

        return run
