"""The wire types of numbers about maps: what they find on one picture, and what is known of a method beforehand."""

from typing import Annotated, Literal

from pydantic import Field

from .base import TargetRef, Wire

Verdict = Literal["passes", "fails", "depends", "not yet tested"]
Metric = Literal["curves", "road", "completeness", "sparsity", "stability", "random-logit", "localisation"]


class Pair(Wire):
    """A number for each way to hide pixels: behind the picture's blur, and behind the model's mean colour."""

    blur: float | None
    mean: float | None


class Gain(Pair):
    """How much better a map orders the pixels of this picture than chance does, in deviations of random maps.

    Insertion less deletion, less the mean of that of eight random maps as smooth as a CAM, over their deviation. Within
    2 of zero under either way to hide, it is no better than chance.
    """

    reason: Annotated[str | None, Field(description="Why a number is null.")]


class RandomPair(Wire):
    """Insertion less deletion of eight random maps: [mean, deviation] for each way to hide pixels."""

    blur: list[float] | None
    mean: list[float] | None


class Controls(Wire):
    """What maps reach that know nothing of the network, for one target."""

    target: TargetRef
    random: RandomPair
    bell: Annotated[Pair, Field(description="The gain of a bell in the middle of the picture.")]


class Faithfulness(Wire):
    """How well a map orders the pixels of this picture; `controls` stand here where an answer has no place for all."""

    gain: Gain
    controls: Controls | None = None


class Curve(Wire):
    """The score as pixels go, most important first, or come: 0 where all are hidden, 1 for the picture itself."""

    shares: Annotated[list[float], Field(description="Of the pixels that are gone, or have come: 0 to 1.")]
    deletion: Annotated[list[float], Field(description="The score where so many are gone.")]
    insertion: Annotated[list[float], Field(description="The score where so many have come.")]
    deletion_area: float
    insertion_area: float


class Curves(Wire):
    """Deletion and insertion for each way to hide pixels; null where the score hardly drops."""

    blur: Curve | None
    mean: Curve | None


class Completeness(Wire):
    """How nearly a map adds up to what its method promises."""

    promises: Annotated[str, Field(description="What the map should add up to.")]
    change: Annotated[float, Field(description="What it should add up to.")]
    residual: Annotated[float, Field(description="By how much it adds up to more.")]


class Stability(Wire):
    """How far a map moves where the picture hardly does."""

    largest: Annotated[float, Field(description="Of eight noisy pictures: |map's change| / |map|.")]
    seeds: Annotated[float | None, Field(description="The same where only the method's seed is another one.")]


class Localisation(Wire):
    """How much of a map lies in the caller's box."""

    pointing: Annotated[float, Field(description="Share of the largest values that lie in the box: 1 hits, 0 misses.")]
    energy: Annotated[float, Field(description="Share of the positive values' sum that lies in the box.")]
    area: Annotated[float, Field(description="The box's share of the picture: the energy of a map of ones.")]


class Metrics(Wire):
    """What was asked for by `metrics`; null where it was not, or where `reasons` says why there is none."""

    curves: Curves | None = None
    road: Annotated[
        float | None,
        Field(description="Half of the score without the least important pixels less that without the most important."),
    ] = None
    completeness: Completeness | None = None
    sparsity: Annotated[float | None, Field(description="Gini index of the absolute values, 0 to 1.")] = None
    stability: Stability | None = None
    random_logit: Annotated[
        float | None,
        Field(
            description="|Spearman| between this map and that of a class of rank 3K/4: near 1, the class hardly counts."
        ),
    ] = None
    localisation: Localisation | None = None
    reasons: Annotated[dict[str, str], Field(description="Why a number is null, by metric.")] = Field(
        default_factory=dict
    )


class Stage(Wire):
    """How alike maps are before and after a share of a network's layers has got permuted weights, from the top."""

    share: Annotated[float, Field(description="Of the layers with weights.")]
    spearman: float
    ssim: float


class Sanity(Wire):
    """Whether a method's maps depend on what the network has learnt, and on the class: found beforehand."""

    verdict: Verdict
    reason: Annotated[
        str | None, Field(description="Why it is not tested, what a failure means, or what was missing.")
    ] = None
    mprt: Annotated[float | None, Field(description="Mean |Spearman| to maps of the network of permuted weights.")] = (
        None
    )
    random_logit: Annotated[float | None, Field(description="Mean |Spearman| to maps of a class of rank 3K/4.")] = None
    stages: list[Stage] = Field(default_factory=list)
    pictures: Annotated[int, Field(description="Crops of the package's photographs that it was tested on.")] = 0
    flat: Annotated[int, Field(description="Of these, left out as one of two maps was flat.")] = 0
    cut: Annotated[list[str], Field(description="What was made cheaper for the test.")] = Field(default_factory=list)
    passes: Annotated[int, Field(description="That the test took.")] = 0
