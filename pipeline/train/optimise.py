"""The optimiser of a training: which parameter learns how fast, and which is not decayed."""

import math
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.train.networks import EmbeddingNet


def make_optimizer(net: EmbeddingNet, objective: nn.Module, settings: TrainConfig) -> Any:
    """The optimiser: the trunk learns at its factor; biases, norms and GeM's p are not decayed."""
    groups = [
        *_groups(net.trunk, settings.learning_rate * settings.trunk_factor, settings.weight_decay),
        *_groups(net.head, settings.learning_rate, settings.weight_decay),
        *_groups(objective, settings.learning_rate, settings.weight_decay),
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=settings.learning_rate)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def rate_at(step: int, settings: TrainConfig) -> float:
    """The factor of the learning rate at a step: a linear rise, then constant or half a cosine to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    rest = max(1, settings.steps - settings.warmup_steps)
    return (1 + math.cos(math.pi * (step - settings.warmup_steps) / rest)) / 2


def set_rate(optimizer: Any, factor: float) -> None:
    """Sets every group's rate to ``factor`` of its own."""
    for group in optimizer.param_groups:
        group.setdefault("own_lr", group["lr"])
        group["lr"] = group["own_lr"] * factor


def _groups(module: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learned if parameter.ndim > 1]
    others = [parameter for parameter in learned if parameter.ndim <= 1]
    return [
        {"params": decayed, "lr": rate, "weight_decay": decay, "own_lr": rate},
        {"params": others, "lr": rate, "weight_decay": 0.0, "own_lr": rate},
    ]
