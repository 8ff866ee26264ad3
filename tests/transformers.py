"""A small vision transformer, whose attention is made in each of the ways that networks have."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

How = Literal["fused", "open", "module", "weights"]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    how: `fused` by `scaled_dot_product_attention`, `open` by a softmax of its own, `module` by what
    `torch.nn.MultiheadAttention` calls, `weights` by the same when it is asked for its weights.
    """

    def __init__(self, width: int, heads: int, how: How) -> None:
        super().__init__()
        self.heads, self.how = heads, how
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        """Return what tokens (N, T, C) attend to."""
        if self.how in ("module", "weights"):
            t = x.transpose(0, 1)
            out, _ = F.multi_head_attention_forward(
                *(t, t, t, x.shape[2], self.heads, self.qkv.weight, self.qkv.bias, None, None, False, 0.0),
                *(self.out.weight, self.out.bias),
                training=False,
                need_weights=self.how == "weights",
            )
            return out.transpose(0, 1)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if self.how == "fused":
            o = F.scaled_dot_product_attention(q, k, v)
        else:
            o = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        return self.out(o.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vision(nn.Module):
    """Patches of 8 pixels, tokens without a place in front, blocks, and a head on one of these or on the patches' mean.

    The same weights whatever the way of attention.
    """

    def __init__(
        self,
        how: How = "fused",
        *,
        prefix: int = 1,
        size: int = 32,
        width: int = 16,
        heads: int = 2,
        depth: int = 2,
        outputs: int = 5,
        patch: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.prefix = prefix
            self.patches = nn.Conv2d(3, width, patch, patch)
            self.token = nn.Parameter(torch.randn(1, prefix, width))
            self.places = nn.Parameter(torch.randn(1, prefix + (size // patch) ** 2, width) / 2)
            self.blocks = nn.ModuleList(Block(width, heads, how) for _ in range(depth))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
            for block in self.blocks:
                nn.init.normal_(block.qkv.weight, std=0.4)
        self.eval().requires_grad_(False)

    def places_of(self, patches: Tensor) -> Tensor:
        """Return what tells tokens where they are, between those of the network's own size for another one."""
        grid = (patches.shape[2], patches.shape[3])
        own = round((self.places.shape[1] - self.prefix) ** 0.5)
        if grid == (own, own):
            return self.places
        maps = self.places[:, self.prefix :].mT.unflatten(2, (own, own))
        return torch.cat([self.places[:, : self.prefix], F.interpolate(maps, grid, mode="bilinear").flatten(2).mT], 1)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x)
        places = self.places_of(t)
        t = torch.cat([self.token.expand(len(t), -1, -1), t.flatten(2).mT], 1) + places
        for block in self.blocks:
            t = block(t)
        t = self.norm(t)
        return self.head(t[:, 0] if self.prefix else t.mean(1))


def attentions(network: Vision, x: Tensor) -> list[Tensor]:
    """Return each block's attention (N, heads, T, T) as torch's own function says it when it is asked for weights."""
    found: list[Tensor] = []

    def ask(block: Block, given: tuple[Tensor], _: Tensor) -> None:
        t = block.norm1(given[0]).transpose(0, 1)
        weights = F.multi_head_attention_forward(
            *(t, t, t, t.shape[2], block.heads, block.qkv.weight, block.qkv.bias, None, None, False, 0.0),
            *(block.out.weight, block.out.bias),
            training=False,
            need_weights=True,
            average_attn_weights=False,
        )[1]
        assert weights is not None
        found.append(weights.detach())

    hooks = [block.register_forward_hook(ask) for block in network.blocks]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


def row_as_map(network: Vision, r: Tensor) -> Tensor:
    """Return the row (T,) that the head reads of (T, T), as a square: the class token's, or the mean."""
    row = r[0] if network.prefix else r.mean(0)
    side = round((len(row) - network.prefix) ** 0.5)
    return row[network.prefix :].reshape(side, side)
