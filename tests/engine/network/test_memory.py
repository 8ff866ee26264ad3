"""What a forward needs is counted at its most crowded moment."""

import torch
from torch import nn

from service.engine.network.memory import live_bytes


def test_live_bytes_are_those_of_the_most_crowded_moment():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1000))

        def forward(self, x):
            x = x * self.weight.view(10, 100)[0, 0].to(x.dtype)  # beside what is given: x; the weight counts nothing
            wide = torch.cat([x, x, x, x], 1)  # beside x: 1 + 4
            narrow = wide.amax(1, keepdim=True) + 1  # beside x and wide: 1 + 4 + 1/3 + 1/3
            del wide
            return narrow.relu_() + x  # 1 + 1/3 + 1

    x = torch.zeros(2, 3, 10, 10)
    assert live_bytes(Branches(), x) == x.nbytes * 6 + x.nbytes * 2 // 3
    assert live_bytes(Branches(), x.bfloat16()) == live_bytes(Branches(), x) // 2
