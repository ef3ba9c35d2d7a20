"""Several processes that train one network as if they were one: each takes an equal slice of every batch.

1. Each rank embeds its slice. Vectors of all ranks are gathered, in the order of the batch; a rank's own keep
   their graph, the others are constants.
2. Every rank computes the same loss over the whole batch, so miners see all of it.
3. Gradients of the network are summed over the ranks: together they are the gradient of the whole batch.
   Those of the loss's own parameters are equal on every rank already.
4. BatchNorm takes its statistics over the whole batch.

So any number of ranks gives the loss of one, up to the order of sums. With one rank nothing is sent.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which process this is, of how many."""

    number: int = 0
    count: int = 1

    def share(self, length: int) -> slice:
        """The slice of ``length`` rows that is this rank's; ``length`` must divide by ``count``."""
        if length % self.count:
            raise ValueError(f"{length} rows cannot be shared evenly among {self.count} ranks")
        own = length // self.count
        return slice(self.number * own, (self.number + 1) * own)

    def gather(self, own_bD: Tensor) -> Tensor:
        """The rows of all ranks, in order; gradients flow into this rank's own."""
        if self.count == 1:
            return own_bD
        parts = [torch.empty_like(own_bD) for _ in range(self.count)]
        distributed.all_gather(parts, own_bD.detach().contiguous())
        parts[self.number] = own_bD
        return torch.cat(parts)

    def sum_gradients(self, net: nn.Module) -> None:
        """Adds up what each rank's slice says of the network."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def in_step(self) -> None:
        """Waits until all ranks are here."""
        if self.count > 1:
            distributed.barrier()

    def joined(self, net: nn.Module) -> nn.Module:
        """The network with BatchNorm over all ranks; the network itself where there is one."""
        if self.count > 1:
            for module in list(net.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.BatchNorm2d):
                        module.register_module(name, _JoinedBatchNorm.like(child))
        return net


class _JoinedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the slices of all ranks (torch's own works on GPUs only); slices are of equal size."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "_JoinedBatchNorm":
        joined = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        joined.load_state_dict(norm.state_dict())
        joined.requires_grad_(norm.weight.requires_grad)
        joined.train(norm.training)
        return joined

    def forward(self, x_bCHW: Tensor) -> Tensor:
        """[b, C, H, W] to the same shape."""
        if not self.training:
            return super().forward(x_bCHW)
        wide_bCHW = x_bCHW.float()
        count = wide_bCHW.numel() // wide_bCHW.shape[1] * distributed.get_world_size()
        mean_C = _summed(wide_bCHW.sum(dim=(0, 2, 3))) / count
        centred_bCHW = wide_bCHW - mean_C[:, None, None]
        variance_C = _summed(centred_bCHW.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            unbiased_C = variance_C * (count / max(1, count - 1))
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(unbiased_C, self.momentum)
            self.num_batches_tracked.add_(1)
        factor_C = self.weight * (variance_C + self.eps).rsqrt()
        return (centred_bCHW * factor_C[:, None, None] + self.bias[:, None, None]).to(x_bCHW.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        """Adds up."""
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        """Adds up what comes back."""
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        return summed


def _summed(values: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(values)
    return summed
