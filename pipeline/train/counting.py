"""Counts what a network holds and what one image costs, without memory for either: on torch's meta device."""

import math

import torch
from torch import Tensor, nn


def count_parameters(net: nn.Module) -> int:
    """All learned values, biases and BatchNorm's factors included."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_mult_adds(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one image of ``size`` (height, width): of weights only, as papers count.

    ``net`` must lie on the meta device.
    """
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        places = math.prod(output.shape[2:]) if isinstance(module, nn.Conv2d) else 1
        total += module.weight.numel() * places

    hooks = [
        module.register_forward_hook(count)
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            net(torch.empty(1, 3, *size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return total
