"""What the methods that read attention share: the blocks, their heads, and tokens as maps."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.contract import Attention, Facts
from service.explainers.base import Explainer

Joined = Literal["mean", "max", "min"]
Heads = Annotated[Joined, Field(description="How the heads of a block are joined: their mean, maximum or minimum.")]


def joined(a: Tensor, heads: Joined) -> Tensor:
    """Return attention (heads, T, T) with its heads joined, (T, T)."""
    if heads == "mean":
        return a.mean(0)
    return a.amax(0) if heads == "max" else a.amin(0)


def blocks(facts: Facts) -> dict[str, Attention]:
    """Return all attentions by address, in the order of the forward."""
    return {path: info.attention for path, info in facts.layers.items() if info.attention is not None}


def read_from(r: Tensor, attention: Attention) -> Tensor:
    """Return the row (T,) of the tokens that the outputs are made of, given (T, T): their mean."""
    return r[list(attention.read)].mean(0)


def as_map(row: Tensor, attention: Attention) -> Tensor:
    """Return what tokens (T,) say of their places, (h, w)."""
    return attention.layout.maps(row[None, :, None])[0, 0]


def placed(row: Tensor, attention: Attention) -> float:
    """Return how much of a row (T,) tokens have that have a place."""
    return float(as_map(row, attention).sum() / row.sum())


def reading(attention: Attention) -> list[int] | str:
    """Return which tokens the outputs are made of, for people."""
    layout = attention.layout
    places = range(layout.prefix, layout.prefix + layout.grid[0] * layout.grid[1])
    return "patches" if attention.read[0] in places else list(attention.read)


def start(facts: Facts, path: str, device: torch.device) -> Tensor:
    """Return what each token is made of before any attention, (T, T): itself."""
    return torch.eye(facts.layers[path].shape[-1], device=device)


class AttentionExplainer(Explainer):
    """A method that reads attention."""

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need attention over all tokens of a picture."""
        facts.require_attention(cls.name)


class ChainExplainer(AttentionExplainer):
    """A method that joins all attentions of a network, each of which builds on the one before it."""

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need attentions over all tokens of a picture that follow one another."""
        facts.require_attention_chain(cls.name)
