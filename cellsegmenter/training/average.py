"""The running average of weights and batch statistics that a training ends with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellsegmenter.training.schedule import average_decay

__all__ = ["update_average"]


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: nn.Module, step: int) -> None:
    """Move `average` towards the state of a network, in place; counters are copied."""
    state = network.state_dict()
    smooth = [name for name, value in state.items() if value.is_floating_point()]
    averages, values = [average[name] for name in smooth], [state[name] for name in smooth]
    torch._foreach_lerp_(averages, values, 1 - average_decay(step))
    for name in state.keys() - set(smooth):
        average[name].copy_(state[name])
