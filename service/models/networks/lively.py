"""Seeded random weights that are worth a look: what initialisers leave at zero, or let vanish, is brought to life."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from service.models.networks import holding

_LEAST = 0.05  # deviation over places and pictures under which a layer's output counts as vanished
_MOST = 50.0
_SPREAD = 2.0
# Of a residual branch, beside the one of what it is added to: after a dozen blocks each place is still its own, as in
# trained networks, where a half leaves every place a mixture of all.
_GAIN = 0.2
_NARROWEST = 0.1  # variance of a batch norm's channel, in those of all its channels: few pictures may show less


def lively(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a freshly initialised network whose every layer answers to its input; changed in place, and seeded.

    Networks are initialised for training: last layers and gains of residual branches begin at zero, running statistics
    are not those of any picture, and deep plain networks let signals fade. Here gains at (almost) zero become a fifth,
    matrices of zeros small random ones, batch norms take the statistics of the inputs, and layers whose output has
    vanished or exploded are scaled to a deviation of one, in the order of the forward (Mishkin & Matas 2016, "All you
    need is a good init", section 3, without the orthonormal start). The last layer is scaled so that outputs spread by
    about two: probabilities of random classes are then neither equal nor decided.

    Args:
        network: with the weights of its initialisers.
        inputs: some pictures as the network takes them, (N, C, H, W).
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        _wake(network)
        modules = [module for _, module in holding.modules(network)]
        norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        handles: list[Any] = []
        last: list[tuple[nn.Module, Tensor]] = []
        holding.evaluating(network)
        for norm in norms:
            if norm.track_running_stats:
                handles.append(norm.register_forward_pre_hook(_settle))
        for module in modules:
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
                handles.append(module.register_forward_hook(_scaled()))
                handles.append(module.register_forward_hook(lambda layer, _, output: last.append((layer, output))))
        try:
            found = network(inputs)
        except (Exception, SystemExit):  # it takes other inputs: whoever loads it will say so
            return network
        finally:
            for handle in handles:
                handle.remove()
        outputs = getattr(found, "logits", found)
        if isinstance(outputs, Tensor) and last and last[-1][1].numel() == outputs.numel():
            _spread(last[-1][0], outputs)
    return network


def _spread(layer: nn.Module, outputs: Tensor) -> None:
    """Scale a last layer so that its outputs spread by `_SPREAD` over classes, or over pictures."""
    deviation = float(outputs.std(1).mean() if outputs[0].numel() > 1 else outputs.std())
    if deviation > 1e-12:
        for _, parameter in holding.weights(layer):
            parameter.mul_(_SPREAD / deviation)


def _wake(network: nn.Module) -> None:
    for _, module in holding.modules(network):
        for name, parameter in holding.weights(module):
            if (
                not parameter.is_floating_point()
                or parameter.numel() < 2
                or isinstance(parameter, nn.UninitializedParameter)
            ):
                continue
            low, high = float(parameter.min()), float(parameter.max())
            if low != high or abs(low) > 1e-2:
                continue
            gain = name == "weight" or any(word in name for word in ("gamma", "lambda", "scale", "alpha", "ls"))
            if parameter.ndim >= 2 and parameter.squeeze().ndim >= 2:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif gain and "bias" not in name:
                parameter.fill_(_GAIN)


def _settle(norm: nn.Module, given: tuple[Any, ...]) -> None:
    """Give a batch norm the statistics of what it is about to see."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return
    if not given or given[0].ndim < 2 or norm.running_mean is None or norm.running_var is None:
        return
    values = given[0].transpose(0, 1).flatten(1)
    variance = values.var(1, unbiased=False)
    norm.running_mean.copy_(values.mean(1))
    norm.running_var.copy_(variance.clamp(min=max(1e-3, _NARROWEST * float(variance.mean()))))


def _scaled() -> Callable[..., Tensor | None]:
    """Return a hook that scales a layer's weight, the first time that its output has vanished or exploded."""
    met: list[bool] = []

    def hook(layer: nn.Module, given: Any, output: Any) -> Tensor | None:
        if met or not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        met.append(True)
        bias = getattr(layer, "bias", None)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        # Over places and pictures: a bias alone says nothing of them.
        deviation = float(output.movedim(axis, 0).flatten(1).std(1, unbiased=False).mean())
        if not _LEAST > deviation > 1e-12 and not _MOST < deviation < float("inf"):
            return None
        layer.weight.mul_(1 / deviation)  # type: ignore[operator]
        if not isinstance(bias, Tensor):
            return output / deviation
        bias = bias if isinstance(layer, nn.Linear) else bias.view(-1, *[1] * (output.ndim - 2))
        return (output - bias) / deviation + bias

    return hook
