"""How each method is asked. Written by `python -m tests.openapi`: do not edit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, overload

from .pictures import Picture

Target: TypeAlias = int | str | Mapping[str, Any]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

class Options(TypedDict, total=False):
    """What every method takes."""

    model: str | None
    """Name of the model; default: the default model."""
    timeout_s: float | None
    """Deadline in seconds; past it the answer is a 504."""
    priority: int
    """Rows of higher priority go first; above what the server allows a caller, a 422."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None
    """Of forwards; `auto` takes the fastest that was measured to agree, where the method tolerates it. Default: the
    server's setting.
    """
    targets: Target | Sequence[Target]
    """What to explain: an output's index or label; or, by the model's task, `{class, against: [..]}`; `{output,
    direction: up | down}`; `{class, region: predicted | [x0, y0, x1, y1] | {mask: i}}`; `{detection: rank}`, `{box:
    [x0, y0, x1, y1], class}`; `{like: [i], unlike: [i], measure: cosine}`. Boxes are in pixels of the upright
    upload, `i` counts `pictures`. Default: what the model says of the picture.
    """
    pictures: Sequence[Picture]
    """Further pictures, as `image`, that targets name."""
    params: Mapping[str, Any]
    """The method's own parameters, where they are not named beside these."""
    faithfulness: bool
    """Say of each map how well it orders the picture's pixels: up to 603 further rows for the first map of a
    picture, about 60 for others.
    """
    heatmap: bool
    """Return the map as a PNG."""
    overlay: bool
    """Return the map laid over the picture as a PNG. Where it is false and `heatmap` is not, an answer of one
    picture a map (PNG, WebP, JPEG, ZIP) shows the map alone.
    """
    colormap: str | None
    """Name of a colour map; default inferno for positive maps, colorbrewer:RdBu_r for signed ones."""
    opacity: float
    """Of the map in the overlay."""
    size: Literal["input", "original"]
    """Draw at the model's input size, or on the whole uploaded picture."""

class AblationCAM(Options, total=False):
    """What ablation-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    relu: bool
    """Keep only what speaks for the class; false keeps the signed map."""

class RawAttention(Options, total=False):
    """What attention takes."""

    block: int | None
    """Which block, from 0; default: the last one."""
    heads: Literal["mean", "max", "min"] | int
    """How the block's heads are joined: their mean, maximum or minimum; or one of them, from 0."""

class AttentionRelevance(Options, total=False):
    """What attention-relevance takes."""

class AttentionRollout(Options, total=False):
    """What attention-rollout takes."""

    heads: Literal["mean", "max", "min"]
    """How the heads of a block are joined: their mean, maximum or minimum."""

class AttnLRP(Options, total=False):
    """What attn-lrp takes."""

    gamma_convolution: float
    """The gamma of convolutions, such as the one that makes patches."""
    gamma_linear: float
    """The gamma of linear layers."""

class BlurIG(Options, total=False):
    """What blur-ig takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    steps: int
    """Steps from the blurred picture to the sharp one."""
    blur: float
    """Deviation of the strongest blur, where the way begins, input pixels."""
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class CAM(Options, total=False):
    """What cam takes."""

class DeconvNet(Options, total=False):
    """What deconvnet takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    channels: Sequence[int]
    """Channels to project; default: the `top_k` with the strongest activation."""
    top_k: int
    """How many channels, where none are named."""
    keep: Literal["maximum", "channel"]
    """Keep one activation (the strongest, or the one at `position`), or the whole channel."""
    position: Sequence[int] | None
    """Row and column of the activation to keep, instead of the strongest one."""

class DeepLIFT(Options, total=False):
    """What deep-lift takes."""

    baseline: str
    """What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong blur of the
    picture (`blur`), or a colour `#rrggbb`; or up to five of them, joined by `+`, over which the answer is averaged.
    """
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class EigenCAM(Options, total=False):
    """What eigen-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    centre: bool
    """Take each channel's mean off first, as principal components are defined and pytorch-grad-cam has it; false: as
    the paper prints it.
    """

class EigenGradCAM(Options, total=False):
    """What eigen-grad-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    centre: bool
    """Take each channel's mean off first, as principal components are defined and pytorch-grad-cam has it; false: as
    the paper prints it.
    """

class ExcitationBackprop(Options, total=False):
    """What excitation-backprop takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    at: Literal["layer", "input"]
    """Where the walk ends: at the layer, or at the input's pixels."""

class ExtremalPerturbation(Options, total=False):
    """What extremal-perturbation takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    areas: Sequence[float]
    """Shares of the picture that masks show, a search for each."""
    steps: int
    """Steps of gradient ascent."""
    grain: int
    """Side of a cell of the mask's grid, input pixels."""
    smoothness: float
    """Width of a cell's kernel, input pixels."""
    mirror: bool
    """Mirror the masked picture at every second step, against masks that fit one view alone."""
    hidden: str
    """What stands where something is hidden: the model's mean colour, `black`, `white`, `grey`, the picture blurred
    (`blur`), or a colour `#rrggbb`.
    """

class FeatureFactorisation(Options, total=False):
    """What feature-factorisation takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    parts: int
    """How many parts."""

class FeatureMaps(Options, total=False):
    """What feature-maps takes."""

    layers: Sequence[str]
    """Paths of the layers; default: the last spatial feature map."""
    channels: Sequence[int]
    """Channel numbers to show, in this order; default: the strongest `top_k`."""
    top_k: int
    """How many channels to show, strongest first, where none are named."""
    activation: Literal["before", "after"]
    """`after`: what the activation function that directly follows a layer makes of it, if one does."""

class Filters(Options, total=False):
    """What filters takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    channels: Sequence[int]
    """Channels (filters) to visualise."""
    steps: int
    """Steps of gradient ascent."""
    step_size: float
    """Root mean square of a step, in normalised input (or spectrum) units."""
    l2: float
    """Weight of the penalty on the mean square of the input."""
    total_variation: float
    """Weight of the penalty on the mean absolute difference of neighbours."""
    blur: float
    """Deviation, in pixels, of a Gaussian blur every 4 steps (`pixel` only)."""
    jitter: int
    """Largest random shift before each step, pixels."""
    parametrisation: Literal["pixel", "fourier"]
    """What is optimised: pixels, or a decorrelated spectrum."""
    seed: int
    """Seed of all that is drawn at random."""

class FinerCAM(Options, total=False):
    """What finer-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    relu: bool
    """Keep only what speaks for the class; false keeps the signed map."""
    references: Sequence[int]
    """Indices of the classes to compare with; default: the `similar` ones nearest in score."""
    similar: int
    """How many to compare with, where none are named."""
    strength: float
    """How much of what speaks for the other classes is taken off."""

class FullGrad(Options, total=False):
    """What full-grad takes."""

    aggregate: Literal["saliency", "sum"]
    """Scaled absolute values, or what adds up to the logit."""

class GradCAM(Options, total=False):
    """What grad-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    relu: bool
    """Keep only what speaks for the class; false keeps the signed map."""

class GradCAMPlusPlus(Options, total=False):
    """What grad-cam++ takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""

class GradientSHAP(Options, total=False):
    """What gradient-shap takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: str
    """What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong blur of the
    picture (`blur`), or a colour `#rrggbb`; or up to five of them, joined by `+`, over which the answer is averaged.
    """
    samples: int
    """Points, over all baselines."""
    noise: float
    """Deviation of noise on the picture, as a share of the input's value range."""
    seed: int
    """Seed of all that is drawn at random."""
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class GradientXInput(Options, total=False):
    """What gradient-x-input takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class GroupCAM(Options, total=False):
    """What group-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    groups: int
    """How many groups; as many as channels, where there are fewer of these."""
    relu: bool
    """Keep only what speaks for the class; false keeps the signed map."""

class GuidedBackprop(Options, total=False):
    """What guided-backprop takes."""

class GuidedGradCAM(Options, total=False):
    """What guided-grad-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""

class GuidedIG(Options, total=False):
    """What guided-ig takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: str
    """What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong blur of the
    picture (`blur`), or a colour `#rrggbb`.
    """
    steps: int
    """Steps on the way, each waiting for the one before."""
    fraction: float
    """Share of all values that are moved at a time, within a step."""
    band: float
    """How far from the straight way a value may be, as a share of its way."""
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class HiResCAM(Options, total=False):
    """What hires-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    relu: bool
    """Keep only what speaks for the class; false keeps the signed map."""
    each: bool
    """Drop what speaks against the class in each channel, before the channels are added up; the map is >= 0 then,
    and adds up to nothing.
    """

class HSIC(Options, total=False):
    """What hsic takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    cells: int
    """Cells of the grid, a side."""
    space: Literal["pixels", "normalised"]
    """Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what a mask hides
    is black, or the `normalised` input, so that it is the model's mean colour.
    """
    seed: int
    """Seed of all that is drawn at random."""
    samples: int
    """n: pictures with random cells hidden."""

class IntegratedGradients(Options, total=False):
    """What integrated-gradients takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: str
    """What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong blur of the
    picture (`blur`), or a colour `#rrggbb`; or up to five of them, joined by `+`, over which the answer is averaged.
    """
    steps: int
    """Points on the way from each baseline."""
    rule: Literal["gauss-legendre", "midpoint"]
    """Where the points lie: Gauss-Legendre nodes, exact where the gradient changes smoothly, or the middles of equal
    steps.
    """
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class ISCAM(Options, total=False):
    """What is-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: Literal["black", "none", "input"]
    """X_b, whose score is taken off: what a mask of zeros leaves (`black`; under `space: pixels` an all-black
    picture), nothing (CIC is the score itself), or the picture. A softmax does not see it: it changes the map with
    `weights: raw` alone.
    """
    space: Literal["pixels", "normalised"]
    """Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what a mask hides
    is black, or the `normalised` input, so that it is the model's mean colour.
    """
    weights: Literal["softmax", "raw"]
    """Softmax of CIC over the channels, or CIC itself."""
    interpolation: Literal["bilinear", "bilinear-corners", "bicubic", "nearest"]
    """How a map is enlarged into a mask; `-corners` aligns the corner points."""
    normalise: Literal["after", "before"]
    """Scale a mask to 0..1 after enlarging its map, as the paper does, or before."""
    samples: int
    """N: steps on the path."""
    path: Literal["straight", "published"]
    """`straight`: from black to the masked picture. `published`: as printed, far beyond it."""

class KernelSHAP(Options, total=False):
    """What kernel-shap takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    segments: Literal["slic", "squares"]
    """How the picture is cut: superpixels, which follow its colours (`slic`), or cells of a grid."""
    count: int
    """How many segments, at most; there may be a few fewer."""
    hidden: str
    """What stands where something is hidden: the model's mean colour, `black`, `white`, `grey`, the picture blurred
    (`blur`), or a colour `#rrggbb`. `segment` is each hidden segment's own mean colour.
    """
    samples: int
    """Pictures with some segments hidden; at least twice the segments."""
    seed: int
    """Seed of all that is drawn at random."""

class LayerCAM(Options, total=False):
    """What layer-cam takes."""

    layers: Sequence[str]
    """Paths of the layers; default: the last spatial feature map."""

class LIME(Options, total=False):
    """What lime takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    segments: Literal["slic", "squares"]
    """How the picture is cut: superpixels, which follow its colours (`slic`), or cells of a grid."""
    count: int
    """How many segments, at most; there may be a few fewer."""
    hidden: str
    """What stands where something is hidden: the model's mean colour, `black`, `white`, `grey`, the picture blurred
    (`blur`), or a colour `#rrggbb`. `segment` is each hidden segment's own mean colour.
    """
    samples: int
    """Pictures with some segments hidden."""
    width: float
    """Width of the kernel of nearness, cosine distance."""
    ridge: float
    """Penalty on the coefficients' squares."""
    seed: int
    """Seed of all that is drawn at random."""

class LRP(Options, total=False):
    """What lrp takes."""

    rules: Literal[
        "epsilon",
        "z-plus",
        "epsilon-plus",
        "epsilon-plus-flat",
        "epsilon-gamma-box",
        "epsilon-alpha2-beta1",
        "epsilon-alpha2-beta1-flat",
    ]
    """Rules of linear layers, of convolutions and of the first layer. `epsilon`: everywhere by the share in the
    output. `z-plus`: everywhere among what raises the output. The others have epsilon for linear layers, and for
    convolutions z-plus (`epsilon-plus`), gamma (`epsilon-gamma-box`), or twice z-plus less once the share in what
    lowers the output (`epsilon-alpha2-beta1`); `flat`: the first layer shares evenly; `box`: it counts pixels from
    the range of colours.
    """
    epsilon: float
    """How far divisors are moved away from zero; more makes sparser maps."""
    gamma: float
    """How much more weights count that agree with the output, in `gamma`."""

class Occlusion(Options, total=False):
    """What occlusion takes."""

    window: int
    """Side of the square, input pixels."""
    stride: int
    """Step between squares, input pixels; at most the window."""
    fill: str
    """What the square shows: the model's mean colour, `black`, `white`, `grey`, a blurred copy of the picture
    (`blur`), or a colour `#rrggbb`.
    """
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """

class PartitionSHAP(Options, total=False):
    """What partition-shap takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    evaluations: int
    """Pictures with some rectangles hidden, per target; each halving takes two."""
    hidden: str
    """What stands where something is hidden: the model's mean colour, `black`, `white`, `grey`, the picture blurred
    (`blur`), or a colour `#rrggbb`.
    """

class RAM(Options, total=False):
    """What ram takes."""

class ReciproCAM(Options, total=False):
    """What recipro-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    kernel: Literal["point", "gaussian"]
    """What is left of the maps: the position itself, or a bell of 3 x 3 positions around it."""

class RISE(Options, total=False):
    """What rise takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    masks: int
    """N: how many masks."""
    cells: int
    """Cells of a mask's grid, a side."""
    open: float
    """p: the probability that a cell shows the picture."""
    space: Literal["pixels", "normalised"]
    """Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what a mask hides
    is black, or the `normalised` input, so that it is the model's mean colour.
    """
    normalise: Literal["coverage", "expectation"]
    """Divide by what the masks showed of each pixel, or by N p as the paper does."""
    seed: int
    """Seed of all that is drawn at random."""

class Saliency(Options, total=False):
    """What saliency takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    sign: Literal["absolute", "signed"]
    """Largest absolute value over the colour channels, or their signed sum."""
    times_input: bool
    """Multiply the gradient by the input."""
    smooth_samples: int
    """Noisy copies to average over (SmoothGrad); 0: the plain gradient."""
    smooth_noise: float
    """Noise deviation, as a share of the input's value range."""
    seed: int
    """Seed of all that is drawn at random."""

class ScoreCAM(Options, total=False):
    """What score-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: Literal["black", "none", "input"]
    """X_b, whose score is taken off: what a mask of zeros leaves (`black`; under `space: pixels` an all-black
    picture), nothing (CIC is the score itself), or the picture. A softmax does not see it: it changes the map with
    `weights: raw` alone.
    """
    space: Literal["pixels", "normalised"]
    """Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what a mask hides
    is black, or the `normalised` input, so that it is the model's mean colour.
    """
    weights: Literal["softmax", "raw"]
    """Softmax of CIC over the channels, or CIC itself."""
    interpolation: Literal["bilinear", "bilinear-corners", "bicubic", "nearest"]
    """How a map is enlarged into a mask; `-corners` aligns the corner points."""
    normalise: Literal["after", "before"]
    """Scale a mask to 0..1 after enlarging its map, as the paper does, or before."""
    error_bound: float
    """How far a pixel may be off, as a share of the map's maximum; 0: all masks are tried. Needs `score:
    probability` and `weights: softmax`, and is computed in float32.
    """

class SegmentAblation(Options, total=False):
    """What segment-ablation takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    segments: Literal["slic", "squares"]
    """How the picture is cut: superpixels, which follow its colours (`slic`), or cells of a grid."""
    count: int
    """How many segments, at most; there may be a few fewer."""
    hidden: str
    """What stands where something is hidden: the model's mean colour, `black`, `white`, `grey`, the picture blurred
    (`blur`), or a colour `#rrggbb`. `segment` is each hidden segment's own mean colour.
    """

class SmoothGrad(Options, total=False):
    """What smooth-grad takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    samples: int
    """Noisy copies to average over."""
    noise: float
    """Noise deviation, as a share of the input's value range."""
    seed: int
    """Seed of all that is drawn at random."""
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class SmoothGradCAMPlusPlus(Options, total=False):
    """What smooth-grad-cam++ takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    samples: int
    """Noisy copies to average over."""
    noise: float
    """Noise deviation, as a share of the input's value range."""
    seed: int
    """Seed of all that is drawn at random."""

class Sobol(Options, total=False):
    """What sobol takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    cells: int
    """Cells of the grid, a side."""
    space: Literal["pixels", "normalised"]
    """Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what a mask hides
    is black, or the `normalised` input, so that it is the model's mean colour.
    """
    seed: int
    """Seed of all that is drawn at random."""
    designs: int
    """N: random rows A, and B."""

class SSCAM(Options, total=False):
    """What ss-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""
    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: Literal["black", "none", "input"]
    """X_b, whose score is taken off: what a mask of zeros leaves (`black`; under `space: pixels` an all-black
    picture), nothing (CIC is the score itself), or the picture. A softmax does not see it: it changes the map with
    `weights: raw` alone.
    """
    space: Literal["pixels", "normalised"]
    """Where a mask multiplies the picture: its `pixels` (0..1, before mean and deviation), so that what a mask hides
    is black, or the `normalised` input, so that it is the model's mean colour.
    """
    weights: Literal["softmax", "raw"]
    """Softmax of CIC over the channels, or CIC itself."""
    interpolation: Literal["bilinear", "bilinear-corners", "bicubic", "nearest"]
    """How a map is enlarged into a mask; `-corners` aligns the corner points."""
    normalise: Literal["after", "before"]
    """Scale a mask to 0..1 after enlarging its map, as the paper does, or before."""
    samples: int
    """Noise fields to average over."""
    deviation: float
    """Noise deviation, of masks in 0..1."""
    seed: int
    """Seed of all that is drawn at random."""

class VarGrad(Options, total=False):
    """What var-grad takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    statistic: Literal["variance", "square"]
    """What of the gradients: their variance or mean square."""
    samples: int
    """Noisy copies."""
    noise: float
    """Noise deviation, as a share of the input's value range."""
    seed: int
    """Seed of all that is drawn at random."""
    colours: Literal["sum", "absmax", "keep"]
    """What a pixel shows of its colour channels: their `sum`, the largest absolute value of them (`absmax`), or each
    of them (`keep`: a picture of three planes).
    """

class XGradCAM(Options, total=False):
    """What xgrad-cam takes."""

    layer: str | None
    """Path of the layer; default: the last spatial feature map."""

class XRAI(Options, total=False):
    """What xrai takes."""

    score: Literal["logit", "probability", "value"]
    """f: the class's probability, or its logit. Models for regression, detection and embedding have a `value`
    instead, which is their default.
    """
    baseline: str
    """What stands for no picture at all: the model's mean colour, `black`, `white`, `grey`, a strong blur of the
    picture (`blur`), or a colour `#rrggbb`; or up to five of them, joined by `+`, over which the answer is averaged.
    """
    steps: int
    """Points on the way from each baseline."""
    segments: Literal["slic", "squares"]
    """How the picture is cut: superpixels, which follow its colours (`slic`), or cells of a grid."""
    counts: Sequence[int]
    """How many segments, at most, each of the cuts has."""
    growth: int
    """How far each segment grows, input pixels."""
    smallest: int
    """How many pixels of a segment have to be new for it to be joined."""

class Asking(Protocol[T_co]):
    """Asks any method, each with its own options."""

    @overload
    def __call__(self, method: Literal["ablation-cam"], picture: Picture, /, **options: Unpack[AblationCAM]) -> T_co:
        """How far the score drops without each feature map: feature maps weighted by what is lost when they are
        zero.
        """
    @overload
    def __call__(self, method: Literal["attention"], picture: Picture, /, **options: Unpack[RawAttention]) -> T_co:
        """Where one block looks: the attention that the class token pays to each patch, softmax(q k^T / sqrt(d))."""
    @overload
    def __call__(
        self, method: Literal["attention-relevance"], picture: Picture, /, **options: Unpack[AttentionRelevance]
    ) -> T_co:
        """Which patches' attention made the class: attention counts as far as more of it raises the logit."""
    @overload
    def __call__(
        self, method: Literal["attention-rollout"], picture: Picture, /, **options: Unpack[AttentionRollout]
    ) -> T_co:
        """Which patches the class token is made of after all blocks, as far as attention alone tells."""
    @overload
    def __call__(self, method: Literal["attn-lrp"], picture: Picture, /, **options: Unpack[AttnLRP]) -> T_co:
        """What each pixel contributed to the logit, through attention as well: LRP with rules for what transformers
        do.
        """
    @overload
    def __call__(self, method: Literal["blur-ig"], picture: Picture, /, **options: Unpack[BlurIG]) -> T_co:
        """Integrated gradients on the way from a blurred picture to the sharp one: no baseline's colour to choose."""
    @overload
    def __call__(self, method: Literal["cam"], picture: Picture, /, **options: Unpack[CAM]) -> T_co:
        """Where the evidence for a class lies: the last feature map weighted by the class's own linear weights."""
    @overload
    def __call__(self, method: Literal["deconvnet"], picture: Picture, /, **options: Unpack[DeconvNet]) -> T_co:
        """Which pattern of the picture caused an activation: the activation is projected back to the pixels."""
    @overload
    def __call__(self, method: Literal["deep-lift"], picture: Picture, /, **options: Unpack[DeepLIFT]) -> T_co:
        """How much each pixel adds to the difference between the picture's logit and a baseline's."""
    @overload
    def __call__(self, method: Literal["eigen-cam"], picture: Picture, /, **options: Unpack[EigenCAM]) -> T_co:
        """What dominates a layer's feature maps, whatever the class: their first principal component."""
    @overload
    def __call__(self, method: Literal["eigen-grad-cam"], picture: Picture, /, **options: Unpack[EigenGradCAM]) -> T_co:
        """What dominates a layer's feature maps as far as they matter to the class: Eigen-CAM of gradient times
        activation.
        """
    @overload
    def __call__(
        self, method: Literal["excitation-backprop"], picture: Picture, /, **options: Unpack[ExcitationBackprop]
    ) -> T_co:
        """How probable it is that a walk from the class down through positive weights comes past a position."""
    @overload
    def __call__(
        self, method: Literal["extremal-perturbation"], picture: Picture, /, **options: Unpack[ExtremalPerturbation]
    ) -> T_co:
        """The smooth mask of a given area that keeps the score highest when all else is hidden."""
    @overload
    def __call__(
        self, method: Literal["feature-factorisation"], picture: Picture, /, **options: Unpack[FeatureFactorisation]
    ) -> T_co:
        """What a layer sees as parts: its maps as a sum of a few patterns of channels, and where each of them is."""
    @overload
    def __call__(self, method: Literal["feature-maps"], picture: Picture, /, **options: Unpack[FeatureMaps]) -> T_co:
        """What each channel of a layer answers to the picture, one small picture per channel in a grid."""
    @overload
    def __call__(self, method: Literal["filters"], picture: None = None, /, **options: Unpack[Filters]) -> T_co:
        """What a filter looks for: the picture that gradient ascent paints, from a blank one, to please it most."""
    @overload
    def __call__(self, method: Literal["finer-cam"], picture: Picture, /, **options: Unpack[FinerCAM]) -> T_co:
        """Where a layer's features tell a class from those that it is most easily taken for."""
    @overload
    def __call__(self, method: Literal["full-grad"], picture: Picture, /, **options: Unpack[FullGrad]) -> T_co:
        """Input times gradient, and each layer's offset times the gradient at its output: what else the logit is
        made of.
        """
    @overload
    def __call__(self, method: Literal["grad-cam"], picture: Picture, /, **options: Unpack[GradCAM]) -> T_co:
        """Where a layer's features speak for a class: feature maps weighted by their mean gradient."""
    @overload
    def __call__(self, method: Literal["grad-cam++"], picture: Picture, /, **options: Unpack[GradCAMPlusPlus]) -> T_co:
        """Grad-CAM that gives each occurrence of the class its share, large or small: each position weighs for
        itself.
        """
    @overload
    def __call__(self, method: Literal["gradient-shap"], picture: Picture, /, **options: Unpack[GradientSHAP]) -> T_co:
        """Integrated gradients averaged over several baselines, at random points of the ways from them."""
    @overload
    def __call__(
        self, method: Literal["gradient-x-input"], picture: Picture, /, **options: Unpack[GradientXInput]
    ) -> T_co:
        """Each pixel's part of the score, were the network linear: df/dX times X, the normalised input."""
    @overload
    def __call__(self, method: Literal["group-cam"], picture: Picture, /, **options: Unpack[GroupCAM]) -> T_co:
        """Grad-CAM by groups of channels, each weighed by what the picture scores where that group's map shows it."""
    @overload
    def __call__(
        self, method: Literal["guided-backprop"], picture: Picture, /, **options: Unpack[GuidedBackprop]
    ) -> T_co:
        """The gradient of which each ReLU passes on only what is positive, where it was open: a sharp picture of
        edges.
        """
    @overload
    def __call__(
        self, method: Literal["guided-grad-cam"], picture: Picture, /, **options: Unpack[GuidedGradCAM]
    ) -> T_co:
        """Guided backpropagation's detail where Grad-CAM finds the class."""
    @overload
    def __call__(self, method: Literal["guided-ig"], picture: Picture, /, **options: Unpack[GuidedIG]) -> T_co:
        """Integrated gradients on a way of its own for each target: the pixels that matter least are moved first."""
    @overload
    def __call__(self, method: Literal["hires-cam"], picture: Picture, /, **options: Unpack[HiResCAM]) -> T_co:
        """What each position of a layer adds to the class's score: gradient times activation, summed over the
        channels.
        """
    @overload
    def __call__(self, method: Literal["hsic"], picture: Picture, /, **options: Unpack[HSIC]) -> T_co:
        """How strongly the score depends on whether a cell shows: the Hilbert-Schmidt independence criterion."""
    @overload
    def __call__(
        self, method: Literal["integrated-gradients"], picture: Picture, /, **options: Unpack[IntegratedGradients]
    ) -> T_co:
        """How much each pixel adds to the score on the straight way from a baseline x' to the picture x."""
    @overload
    def __call__(self, method: Literal["is-cam"], picture: Picture, /, **options: Unpack[ISCAM]) -> T_co:
        """Score-CAM whose scores are averaged on the way from black to the masked picture."""
    @overload
    def __call__(self, method: Literal["kernel-shap"], picture: Picture, /, **options: Unpack[KernelSHAP]) -> T_co:
        """Shapley values of the picture's segments: each one's mean contribution to the score over all orders of
        showing.
        """
    @overload
    def __call__(self, method: Literal["layer-cam"], picture: Picture, /, **options: Unpack[LayerCAM]) -> T_co:
        """Each position of a layer weighed by its own gradient, so that early layers, too, give a map, and a sharp
        one.
        """
    @overload
    def __call__(self, method: Literal["lime"], picture: Picture, /, **options: Unpack[LIME]) -> T_co:
        """A ridge regression of the score on which segments of the picture show, with more weight near the whole
        picture.
        """
    @overload
    def __call__(self, method: Literal["lrp"], picture: Picture, /, **options: Unpack[LRP]) -> T_co:
        """What each pixel contributed to the logit, handed down layer by layer, so that nothing is lost on the way."""
    @overload
    def __call__(self, method: Literal["occlusion"], picture: Picture, /, **options: Unpack[Occlusion]) -> T_co:
        """How far the score drops when a square hides each part of the picture."""
    @overload
    def __call__(
        self, method: Literal["partition-shap"], picture: Picture, /, **options: Unpack[PartitionSHAP]
    ) -> T_co:
        """Owen values over a tree of rectangles: what each adds to the score, over all orders that the tree allows."""
    @overload
    def __call__(self, method: Literal["ram"], picture: Picture, /, **options: Unpack[RAM]) -> T_co:
        """Which regions raise or lower a regression's value: RAM(x, y) = sum_k w_k A_k(x, y)."""
    @overload
    def __call__(self, method: Literal["recipro-cam"], picture: Picture, /, **options: Unpack[ReciproCAM]) -> T_co:
        """What the network says of each position's features alone: the score where all others of the layer are zero."""
    @overload
    def __call__(self, method: Literal["rise"], picture: Picture, /, **options: Unpack[RISE]) -> T_co:
        """The mean score of the pictures in which a pixel is shown, over random masks of coarse, soft cells."""
    @overload
    def __call__(self, method: Literal["saliency"], picture: Picture, /, **options: Unpack[Saliency]) -> T_co:
        """How much the score moves when one pixel moves: |dy_c/dX|, the maximum over the colour channels."""
    @overload
    def __call__(self, method: Literal["score-cam"], picture: Picture, /, **options: Unpack[ScoreCAM]) -> T_co:
        """How much each feature map, used as a mask over the picture, raises the class's score."""
    @overload
    def __call__(
        self, method: Literal["segment-ablation"], picture: Picture, /, **options: Unpack[SegmentAblation]
    ) -> T_co:
        """How far the score drops when one segment of the picture is hidden: f(X) - f(X without the segment)."""
    @overload
    def __call__(self, method: Literal["smooth-grad"], picture: Picture, /, **options: Unpack[SmoothGrad]) -> T_co:
        """How much the score moves when one pixel moves, averaged over noisy copies of the picture."""
    @overload
    def __call__(
        self, method: Literal["smooth-grad-cam++"], picture: Picture, /, **options: Unpack[SmoothGradCAMPlusPlus]
    ) -> T_co:
        """Grad-CAM++ whose gradients are averaged over noisy copies of the picture."""
    @overload
    def __call__(self, method: Literal["sobol"], picture: Picture, /, **options: Unpack[Sobol]) -> T_co:
        """The share of the score's variance that a cell has a part in, alone or with others, when all are dimmed at
        random.
        """
    @overload
    def __call__(self, method: Literal["ss-cam"], picture: Picture, /, **options: Unpack[SSCAM]) -> T_co:
        """Score-CAM whose scores are averaged over noisy masks, so that no single mask decides by its sharp edges."""
    @overload
    def __call__(self, method: Literal["var-grad"], picture: Picture, /, **options: Unpack[VarGrad]) -> T_co:
        """How much the gradient at each pixel differs between noisy copies of the picture, or its mean square."""
    @overload
    def __call__(self, method: Literal["xgrad-cam"], picture: Picture, /, **options: Unpack[XGradCAM]) -> T_co:
        """Grad-CAM whose map adds up to what the layer's features contribute: gradients averaged by the activations."""
    @overload
    def __call__(self, method: Literal["xrai"], picture: Picture, /, **options: Unpack[XRAI]) -> T_co:
        """Regions instead of pixels, ranked by how densely integrated gradients lie in them."""
    @overload
    def __call__(self, method: str, picture: Picture | None, /, **options: Unpack[Options]) -> T_co: ...

class Typed(Generic[T]):
    """A function that takes all methods' options, in a class."""

    def __get__(self, instance: object, owner: type) -> Asking[T]: ...

def typed(function: Callable[..., T]) -> Typed[T]: ...
