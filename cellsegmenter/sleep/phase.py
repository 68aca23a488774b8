"""The sleep phase: a recognition network learns from what the generative model is sure of.

Half of every batch are copy-paste composites, whose truth is exact: they teach what touches.  The other half are real
crops, in which only confident objects count and doubtful ones are ignored: they teach what is no object.  (Wake-sleep:
Hinton et al., Science 1995; here the dreams are made of the model's own confident objects and not of its decoder's.)
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from cellsegmenter.model.device import channels_last_pays
from cellsegmenter.recognition.network import RecognitionNetwork, StarMap
from cellsegmenter.recognition.stars import N_RAYS
from cellsegmenter.sleep.crops import Crop, CropSource
from cellsegmenter.training.average import update_average
from cellsegmenter.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint

__all__ = ["SleepRun", "SleepSettings", "recognition_loss", "sleep"]

# Weight of the outlines against the objectness; px are counted in radii of a typical object.
_OUTLINE_WEIGHT = 1.6
_RISE_STEPS = 60
_FINAL_RATE = 0.02
HISTORY_INTERVAL = 10


@dataclass(frozen=True)
class SleepSettings:
    """How a sleep phase is done."""

    n_steps: int = 1400
    batch_size: int = 8  # crops; every source gives an equal share
    learning_rate: float = 2e-3
    seed: int = 0
    progress: bool = False
    checkpoint: Path | None = None
    checkpoint_interval: int = 200  # steps


class SleepRun:
    """The mutable state of a sleep phase: everything that a checkpoint holds."""

    def __init__(self, network: RecognitionNetwork, settings: SleepSettings, given: dict[str, Any]) -> None:
        self.network, self.settings, self.given = network, settings, given
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.step = 0
        self.random = np.random.default_rng(settings.seed)
        self.history: list[dict[str, float]] = []

    def identity(self) -> dict[str, Any]:
        """What has to be the same for another run to go on from this one."""
        steps = asdict(self.settings)
        named = {name: steps[name] for name in ("n_steps", "batch_size", "learning_rate")}
        return self.network.config.to_dict() | named | self.given

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "random": json.dumps(self.random.bit_generator.state),
            "history": self.history,
            "identity": json.dumps(self.identity()),
        }

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        theirs, ours = json.loads(state["identity"]), json.loads(json.dumps(self.identity()))
        changed = [name for name in ours if theirs.get(name) != ours[name]]
        if changed:
            raise CheckpointError(
                f"{str(source)!r} belongs to a sleep phase that differs in {', '.join(changed)}; delete it to start "
                "the sleep phase anew"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = {name: value.to(self.average[name].device) for name, value in state["average"].items()}
        self.step, self.history = state["step"], state["history"]
        self.random.bit_generator.state = json.loads(state["random"])


def sleep(
    network: RecognitionNetwork,
    sources: Sequence[CropSource],
    settings: SleepSettings,
    *,
    device: torch.device,
    given: dict[str, Any],
) -> list[dict[str, float]]:
    """Train `network` in place; it ends with the average of its weights.

    Parameters
    ----------
    network : RecognitionNetwork
    sources : sequence of CropSource
        Composites and real crops; every batch has an equal share of each.
    settings : SleepSettings
        If its checkpoint file exists, the run it holds is continued.
    device : torch.device
    given : dict
        What else a checkpoint has to agree with, by name; JSON-serialisable.

    Returns
    -------
    list of dict
        The history: one row every ten steps, means over these steps.
    """
    network.to(device).train()
    if channels_last_pays(device):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = SleepRun(network, settings, given)
    if settings.checkpoint is not None and settings.checkpoint.exists():
        run.load_state_dict(read_checkpoint(settings.checkpoint), settings.checkpoint)
    rows: list[dict[str, float]] = []
    started = time.perf_counter() - (run.history[-1]["seconds"] if run.history else 0)
    interval = 0.5 if sys.stderr.isatty() else 30
    with tqdm(
        total=settings.n_steps,
        initial=run.step,
        disable=not settings.progress,
        mininterval=interval,
        unit="step",
        desc="sleep phase",
    ) as bar:
        while run.step < settings.n_steps:
            rows.append(sleep_step(run, _draw_batch(sources, run), device))
            run.step += 1
            bar.update()
            finished = run.step == settings.n_steps
            if finished or run.step % HISTORY_INTERVAL == 0:
                means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
                seconds = time.perf_counter() - started
                run.history.append({"step": float(run.step), "seconds": seconds, **means})
                rows.clear()
            if settings.checkpoint is not None and (finished or run.step % settings.checkpoint_interval == 0):
                write_checkpoint(settings.checkpoint, run.state_dict())
    network.load_state_dict(run.average)
    network.eval()
    return run.history


def _draw_batch(sources: Sequence[CropSource], run: SleepRun) -> Crop:
    """Crops of all sources, stacked."""
    share = max(1, run.settings.batch_size // len(sources))
    crops = [source.draw(run.random) for source in sources for _ in range(share)]
    return Crop(*(np.stack(values) for values in zip(*crops, strict=True)))


def sleep_step(run: SleepRun, crops: Crop, device: torch.device) -> dict[str, float]:
    """One step on stacked crops; the row of the history."""
    rate = _learning_rate(run.step, run.settings)
    run.optimizer.param_groups[0]["lr"] = rate
    image, objectness, radii, known = (torch.from_numpy(values).to(device) for values in crops)
    if channels_last_pays(device):
        image = image.contiguous(memory_format=torch.channels_last)
    loss, row = recognition_loss(run.network(image), objectness, radii, known, run.network.config.diameter)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss of the sleep phase is not finite in step {run.step}; check the images for extreme values"
        )
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    run.optimizer.step()
    update_average(run.average, run.network, run.step)
    return row | {"learning_rate": rate}


def recognition_loss(
    seen: StarMap, objectness: Tensor, radii: Tensor, known: Tensor, diameter: float
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the objectness, and the error of the outlines where there is an object.

    Parameters
    ----------
    seen : StarMap
        (B, h, w) and (B, 32, h, w).
    objectness : Tensor (B, h, w)
        In 0..1.
    radii : Tensor (B, 32, h, w)
        px.
    known : Tensor (B, h, w) bool
        Elsewhere nothing is asked for.
    diameter : float
        px of a typical object.
    """
    entropy = binary_cross_entropy_with_logits(seen.logit, objectness, reduction="none")
    entropy = (entropy * known).sum() / known.sum().clamp_min(1)
    weight = (objectness * known)[:, None]
    error = ((seen.radii - radii).abs() * weight).sum() / (weight.sum() * N_RAYS).clamp_min(1e-3)
    error = error / (diameter / 2)
    loss = entropy + _OUTLINE_WEIGHT * error
    return loss, {"loss": loss.item(), "objectness": entropy.item(), "outlines": error.item()}


def _learning_rate(step: int, settings: SleepSettings) -> float:
    """A short linear rise, then a cosine down to 2 % of the peak."""
    cosine = (1 + math.cos(math.pi * step / settings.n_steps)) / 2
    rise = min(1.0, (step + 1) / _RISE_STEPS)
    return settings.learning_rate * rise * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)
