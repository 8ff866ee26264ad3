"""Filter visualisation: Erhan et al. 2009; Simonyan et al. 2014, section 2; Olah et al. 2017 for the regularisers."""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.contract import (
    INPUT,
    Explanation,
    Facts,
    LayerInfo,
    Map,
    Objective,
    Probe,
    Rows,
    Rule,
    Targets,
    Trace,
    Tracing,
)
from service.explainers.base import LayerExplainer, explainer
from service.explainers.blur import gaussian_blur
from service.explainers.fields import DISTINCT, Channels, Layer, Seed, check_channels

# Ohta et al. 1980: nearly the principal axes of natural pictures' colours (brightness, red-blue, green-magenta), with
# about their relative deviations. Rows map an axis to RGB.
_COLOUR_AXES = torch.tensor([[0.577, 0.577, 0.577], [0.354, 0.0, -0.354], [-0.102, 0.204, -0.102]])


def _fourier_scale(size: tuple[int, int]) -> Tensor:
    """Return 1/frequency, (H, W // 2 + 1), of mean square 1: natural pictures have equal power in each octave."""
    fy, fx = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    frequency = torch.sqrt(fx**2 + fy**2).clamp(min=1 / max(size))
    return frequency.reciprocal() / frequency.reciprocal().square().mean().sqrt()


def _first(facts: Facts) -> str | None:
    """Return the first convolution: the three channels of another one's kernels are no colours."""
    return next((path for path, info in facts.layers.items() if info.kernel is not None), None)


@explainer(
    "filters",
    reference="Erhan et al. 2009; Simonyan et al. 2014, section 2; Olah et al. 2017",
    requirement="A layer with spatial feature maps. Needs no picture.",
    cost="1 forward and backward up to the layer per step and channel",
    kind="rgb",
)
class Filters(LayerExplainer):
    """What a filter looks for: the picture that gradient ascent paints, from a blank one, to please it most.

    X = argmax mean_ij A_k(X) - l2 mean(X^2) - total_variation TV(X), from a blank X on. Each step moves the picture
    along its gradient, scaled to unit root mean square. `pixel` works on the normalised pixels; `fourier` on a
    spectrum with equal power in each octave and decorrelated colours, which gives smoother pictures. First-layer
    kernels, which read RGB, are also shown as they are.

    A response that is dead behind ReLUs has no gradient: the step then lets a little of it leak through the closed
    ones, which moves the response before the ReLU.
    """

    needs_image = False
    takes_targets = False

    layer: Layer = None
    channels: Annotated[
        Channels, Field(min_length=1, max_length=32, description="Channels (filters) to visualise."), DISTINCT
    ] = (0, 1, 2, 3)
    steps: Annotated[int, Field(ge=1, le=2048, description="Steps of gradient ascent.")] = 48
    step_size: Annotated[
        float, Field(gt=0, le=10, description="Root mean square of a step, in normalised input (or spectrum) units.")
    ] = 0.05
    l2: Annotated[float, Field(ge=0, le=10, description="Weight of the penalty on the mean square of the input.")] = 0.0
    total_variation: Annotated[
        float, Field(ge=0, le=10, description="Weight of the penalty on the mean absolute difference of neighbours.")
    ] = 0.0
    blur: Annotated[
        float, Field(ge=0, le=5, description="Deviation, in pixels, of a Gaussian blur every 4 steps (`pixel` only).")
    ] = 0.0
    jitter: Annotated[int, Field(ge=0, le=64, description="Largest random shift before each step, pixels.")] = 4
    parametrisation: Annotated[
        Literal["pixel", "fourier"], Field(description="What is optimised: pixels, or a decorrelated spectrum.")
    ] = "fourier"
    seed: Seed = 0

    @classmethod
    def require(cls, facts: Facts) -> None:
        """Need a layer with maps, and a gradient from there to the input."""
        facts.require_spatial(cls.name)
        facts.require_projection(cls.name)

    def passes(self, facts: Facts, targets: int) -> int:
        """Return passes, each backward counted as two."""
        return 3 * self.steps * len(self.channels) + 3 * len(self.channels)

    @staticmethod
    def _range(facts: Facts, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return black and white in the model's input space: between them an input can be shown."""
        return facts.colour((0, 0, 0)).to(device), facts.colour((1, 1, 1)).to(device)

    def _decode(self, parameters: Tensor, facts: Facts) -> Tensor:
        """Map parameters to pictures in the model's input space, (N, 3, H, W)."""
        if self.parametrisation == "pixel":
            return parameters.clamp(*self._range(facts, parameters.device))
        spectrum = torch.view_as_complex(parameters) * _fourier_scale(facts.input_size).to(parameters.device)
        axes = torch.fft.irfft2(spectrum, s=facts.input_size, norm="ortho")
        rgb = torch.einsum("nahw,ac->nchw", axes, _COLOUR_AXES.to(parameters.device)).sigmoid()
        return facts.painted(rgb)

    def _penalty(self, x: Tensor) -> Tensor:
        """Return the regularisers, (N,)."""
        variation = x.diff(dim=2).abs().mean((1, 2, 3)) + x.diff(dim=3).abs().mean((1, 2, 3))
        return self.l2 * x.square().mean((1, 2, 3)) + self.total_variation * variation

    def explain(self, probe: Probe, image: Tensor, targets: Targets) -> Explanation:
        """Return one RGB picture (3, H, W) in 0..1 a channel, and the kernels of a first layer."""
        facts = probe.facts
        info = facts.layer(self.layer)
        check_channels(self.channels, info)
        painted = self._paint(probe, info)
        maps = list(painted.maps)
        if info.path == _first(facts) and info.kernel is not None and info.kernel[1] == len(facts.channels) == 3:
            kernels = facts.coloured(probe.weight(info.path))
            maps += [
                Map(
                    f"kernel {info.path} channel {c}",
                    kernels[c],
                    "picture",
                    layer=info.path,
                    channel=c,
                    interpolation="nearest",
                )
                for c in self.channels
            ]
        return Explanation(maps, painted.details)

    def _paint(self, probe: Probe, info: LayerInfo) -> Explanation:
        """Paint one picture a channel; none depends on the others."""
        facts = probe.facts
        n, (height, width) = len(self.channels), facts.input_size
        device = probe.device
        generator = torch.Generator().manual_seed(self.seed)

        def response(seen: Trace) -> Tensor:
            a = seen.activations[info.path]
            own = self.channels[seen.first : seen.first + len(a)]  # the channel of each picture
            return a[torch.arange(len(a)), list(own)].mean((1, 2))[:, None]

        def respond(x: Tensor) -> Tensor:
            return probe.trace(Rows.of(x), Tracing(layers=(info.path,), partial=True), response).objective[:, 0]

        spectrum = (n, 3, height, width // 2 + 1, 2)
        shape = (n, *facts.input_shape) if self.parametrisation == "pixel" else spectrum
        parameters = torch.zeros(shape, device=device)
        blank = respond(self._decode(parameters, facts))
        for step in range(self.steps):
            parameters.requires_grad_()
            with torch.enable_grad():
                x = self._decode(parameters, facts)
                penalty = self._penalty(x).sum()
            dy, dx = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator).tolist()
            moved = x.detach().roll((dy, dx), (2, 3))
            gradient = self._ascent(probe, moved, info.path, response).roll((-dy, -dx), (2, 3))
            (g,) = torch.autograd.grad([x, penalty], parameters, [gradient, -torch.ones_like(penalty)])
            rms = g.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (g.ndim - 1))
            parameters = parameters.detach() + self.step_size * torch.where(
                rms > 0, g / torch.where(rms > 0, rms, 1), 0
            )
            if self.parametrisation == "pixel":
                parameters = self._decode(parameters, facts)
                if self.blur > 0 and step % 4 == 3 and step < self.steps - 1:
                    parameters = gaussian_blur(parameters, 4 * int(self.blur + 1) + 1, self.blur)
        x = self._decode(parameters, facts)
        rgb = facts.shown(x).clamp(0, 1)
        noise = torch.rand((n, 3, height, width), generator=generator).to(device)
        maps = [
            Map(f"filter {info.path} channel {c}", rgb[i], "rgb", layer=info.path, channel=c)
            for i, c in enumerate(self.channels)
        ]
        return Explanation(
            maps=maps,
            details={
                "response": respond(x).tolist(),
                "response_blank": blank.tolist(),
                "response_noise": respond(facts.painted(noise)).tolist(),
            },
        )

    def _ascent(self, probe: Probe, x: Tensor, layer: str, response: Objective) -> Tensor:
        """Return the gradient of the response, (N, 3, H, W)."""
        how = Tracing(layers=(layer,), wrt=(INPUT,), partial=True)
        gradient = probe.trace(Rows.of(x), how, response).gradients[INPUT][0]
        dead = gradient.flatten(1).eq(0).all(1)
        if dead.any():
            how = replace(how, rule=Rule("leaky"))
            revived = probe.trace(Rows.of(x), how, response).gradients[INPUT][0]
            gradient = torch.where(dead[:, None, None, None], revived, gradient)
        return gradient
