"""The training loop: random crops in, a trained model out.  The loop owns every mutation."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cellsegmenter.model.device import channels_last_pays
from cellsegmenter.model.structured_vae import Exploration, Noise, StructuredVAE
from cellsegmenter.training.average import update_average
from cellsegmenter.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from cellsegmenter.training.objective import Objective, Terms
from cellsegmenter.training.pairs import N_DRAWS, lesson_loss, put_beside
from cellsegmenter.training.schedule import (
    RunLength,
    evidence_share,
    learning_rate,
    lessons_begun,
    mask_hold,
    warmup_weight,
)
from cellsegmenter.training.watch import Collapse, CollapseWatch
from cellsegmenter.windows import random_crop

__all__ = [
    "HISTORY_INTERVAL",
    "CollapseWarning",
    "Run",
    "TrainingSettings",
    "draw_noise",
    "train",
    "training_step",
]

# Rate of the penalties' own Adam, in log lambda: a factor of ten takes about 100 steps.
_PENALTY_RATE = 0.02
# Gradients are scaled down to this norm, so that one bad batch does not undo the last ones (not ablated).
_GRADIENT_NORM = 5.0
# Steps between two rows of the history.
HISTORY_INTERVAL = 10
# What an identity holds that follows from other entries of it.
_FOLLOWING = ("bounds of density", "expected_objects", "images", "initial_side", "max_objects")


class CollapseWarning(UserWarning):
    """Training had collapsed and was steered back."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a run is done; what it optimises is in the `Objective`."""

    n_steps: int
    batch_size: int
    learning_rate: float
    max_objects: int
    density: tuple[float, float]  # the user's, objects per window: what the watch calls empty and full
    rank_score: float = 1 / 3  # weight of the residual's rank in the suppression score
    seed: int = 0
    augment: bool = False  # random flips and quarter turns
    touching_lessons: bool = False  # whether the pairs that it is taught touch, or lie anywhere
    from_scratch: bool = True  # False: the model is trained already, and needs no warm-up
    progress: bool = True
    checkpoint: Path | None = None
    checkpoint_interval: int = 200  # steps
    # Of what the user gave, what else a checkpoint has to agree with, by name; JSON-serialisable.
    given: dict[str, Any] = field(default_factory=dict)


class Run:
    """The mutable state of a run: everything that a checkpoint holds."""

    def __init__(self, model: StructuredVAE, objective: Objective, settings: TrainingSettings) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        parameter_groups: list[dict[str, Any]] = [
            {"params": list(model.parameters())},
            {"params": list(objective.parameters()), "lr": _PENALTY_RATE},
        ]
        self.optimizer = torch.optim.Adam(
            parameter_groups,
            lr=settings.learning_rate,
            fused=True,
        )
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step = 0
        self.warmup_start = 0  # in the model's age
        self.length = RunLength(settings.n_steps)
        self.random = np.random.default_rng(settings.seed)
        self.noise = torch.Generator().manual_seed(int(self.random.integers(2**62)))
        self.watch = CollapseWatch(settings.density, settings.max_objects)
        self.history: list[dict[str, float]] = []

    @property
    def age(self) -> int:
        """Steps behind the model; one that was trained before counts as through a whole run."""
        return self.step if self.settings.from_scratch else self.step + self.settings.n_steps

    def identity(self) -> dict[str, Any]:
        """What has to be the same for another run to go on from this one: sizes, bounds, settings, what was given.

        Not the seed, as the checkpoint has the generators, nor a noise scale that was estimated with it: the
        checkpoint has that, too.
        """
        objective, settings = asdict(self.objective.settings), asdict(self.settings)
        bounds = {f"bounds of {name}": pair for name, pair in self.objective.constraints.bounds.items()}
        sapr = {"sapr": self.objective.constraints.enabled}
        every = self.model.config.to_dict() | objective | settings | bounds | sapr
        free = ("seed", "noise_scale", "progress", "checkpoint", "checkpoint_interval", "given")
        return {name: value for name, value in every.items() if name not in free} | self.settings.given

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "noise_scale": self.objective.settings.noise_scale,
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "warmup_start": self.warmup_start,
            "length": vars(self.length),
            "random": json.dumps(self.random.bit_generator.state),
            "noise": self.noise.get_state(),
            "watch": {"count": self.watch.count, "steps_outside": self.watch.steps_outside},
            "history": self.history,
            "identity": json.dumps(self.identity()),
        }

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        theirs, ours = json.loads(state["identity"]), json.loads(json.dumps(self.identity()))
        changed = [name for name in ours if theirs.get(name) != ours[name]]
        if changed:
            # What follows from the user's parameters, the scale of the images too, is named only if nothing else is.
            own = [name for name in changed if not name.startswith(_FOLLOWING)] or changed
            raise CheckpointError(
                f"checkpoint={str(source)!r} belongs to a run that differs in {', '.join(own)}; delete it to start "
                "anew, give another name to keep it, or fit with what it was made with"
            )
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.objective.settings = replace(self.objective.settings, noise_scale=state["noise_scale"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = {name: value.to(self.average[name].device) for name, value in state["average"].items()}
        self.step, self.warmup_start = state["step"], state["warmup_start"]
        self.length = RunLength(**state["length"])
        self.random.bit_generator.state = json.loads(state["random"])
        self.noise.set_state(state["noise"])
        self.watch.count = state["watch"]["count"]
        self.watch.steps_outside = state["watch"]["steps_outside"]
        self.history = state["history"]


def train(
    model: StructuredVAE,
    objective: Objective,
    images: Sequence[Any],
    settings: TrainingSettings,
    *,
    device: torch.device,
    observe: Callable[[Run], bool] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on random crops of `images`; it ends with the average of its weights.

    Parameters
    ----------
    model : StructuredVAE
    objective : Objective
        Its penalties are trained too.
    images : sequence of array-likes (C, H, W)
        Normalised float32 when sliced; of any size, lazy or not.  Crops are drawn in proportion to area.
    settings : TrainingSettings
        If its checkpoint file exists, the run it holds is continued, with its noise scale: on the same images, which
        are not in it.
    device : torch.device
    observe : callable, optional
        Called with the run after each new row of its history, to look and not to touch; True ends the training.

    Returns
    -------
    list of dict
        The history: one row every ten steps, means over these steps.
    """
    model.to(device).train()
    objective.to(device).train()
    if channels_last_pays(device):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(model, objective, settings)
    if settings.checkpoint is not None and settings.checkpoint.exists():
        run.load_state_dict(read_checkpoint(settings.checkpoint), settings.checkpoint)

    area_share = np.array([image.shape[-1] * image.shape[-2] for image in images], dtype=float)
    area_share /= area_share.sum()
    rows: list[dict[str, float]] = []
    started = time.perf_counter() - (run.history[-1]["seconds"] if run.history else 0)
    # A line twice a second on a terminal, twice a minute in a log.
    interval = 0.5 if sys.stderr.isatty() else 30
    with tqdm(
        total=run.length.end,
        initial=run.step,
        disable=not settings.progress,
        mininterval=interval,
        unit="step",
    ) as bar:
        finished = run.step >= run.length.end
        while not finished:
            batch = _draw_batch(images, area_share, model.config.window_size, run)
            terms = training_step(run, batch.to(device))
            rows.append(_history_row(run, terms, time.perf_counter() - started))
            collapse = run.watch.update(rows[-1]["objects"])
            if collapse is not None:
                _recover(run, collapse)
            run.step += 1
            bar.update()
            finished = run.step >= run.length.end
            if finished or run.step % HISTORY_INTERVAL == 0:
                run.history.append(_summary(rows))
                rows.clear()
                _show(bar, run.history[-1])
                run.length.update(run.step, [row["reconstruction"] for row in run.history])
                bar.total = run.length.end
                finished |= observe is not None and observe(run)
            if settings.checkpoint is not None and (finished or run.step % settings.checkpoint_interval == 0):
                write_checkpoint(settings.checkpoint, run.state_dict())
    model.load_state_dict(run.average)
    model.eval()
    objective.eval()
    return run.history


def _draw_batch(images: Sequence[Any], area_share: np.ndarray, size: int, run: Run) -> Tensor:
    """Random crops (B, C, size, size)."""
    chosen = run.random.choice(len(images), size=run.settings.batch_size, p=area_share)
    crops = np.stack([random_crop(images[i], size, run.random) for i in chosen])
    if run.settings.augment:
        crops = np.stack([_turned(crop, run.random) for crop in crops])
    return torch.from_numpy(np.ascontiguousarray(crops, dtype=np.float32))


def _turned(crop: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One of the eight symmetries of the square."""
    turned = np.rot90(crop, int(random.integers(4)), axes=(-2, -1))
    return turned[..., ::-1] if random.random() < 0.5 else turned


def draw_noise(batch: int, model: StructuredVAE, slots: int, generator: torch.Generator) -> Noise:
    """The random numbers of a step; drawn on the CPU, so that every device sees the same ones."""
    c = model.config
    points = c.grid_shape[0] * c.grid_shape[1]
    return Noise(
        presence=torch.rand(batch, points, generator=generator),
        z_where=torch.randn(batch, points, 4, generator=generator),
        z_what=torch.randn(batch, slots, c.latent_dim, generator=generator),
        z_background=torch.randn(batch, c.background_latent_dim, generator=generator),
    )


def training_step(run: Run, image: Tensor) -> Terms:
    """One step of everything that is learned: network, DPP kernel, penalties, average of the weights."""
    model, objective, settings = run.model, run.objective, run.settings
    noise = draw_noise(len(image), model, settings.max_objects, run.noise)
    noise = Noise(*(part.to(image.device) for part in noise))
    rate = learning_rate(run.step, run.length, settings.learning_rate)
    run.optimizer.param_groups[0]["lr"] = rate
    exploration = Exploration(
        warmup=warmup_weight(run.age - run.warmup_start, settings.n_steps),
        mask_hold=mask_hold(run.age - run.warmup_start, settings.n_steps),
        # Exploration ends with the learning rate: at the end training sees what prediction will see.
        rank_score=settings.rank_score * min(1.0, rate / settings.learning_rate),
        straight_through=objective.settings.presence_update == "straight_through",
    )
    inference = model.infer(
        image,
        noise,
        max_objects=settings.max_objects,
        overlap_threshold=objective.settings.overlap_threshold,
        exploration=exploration,
    )
    _check_finite(torch.stack(inference.grid_boxes), "what the network proposes", run.step)
    terms = objective(model, image, inference, evidence_share(run.age, settings.n_steps))
    if (
        lessons_begun(run.age, settings.n_steps)
        and exploration.warmup == 0  # it starts anew after a collapse
        and objective.settings.presence_update == "mean_field"
    ):
        draws = torch.rand(len(image), N_DRAWS, generator=run.noise).to(image.device)
        lesson = put_beside(
            image, inference.posterior, model.config.object_size, draws, touching=settings.touching_lessons
        )
        wrong = lesson_loss(model, lesson)
        terms = terms._replace(loss=terms.loss + wrong, lesson=wrong.detach())
    run.optimizer.zero_grad(set_to_none=True)
    terms.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
    _check_finite(norm, "the gradient", run.step)
    run.optimizer.step()
    objective.constraints.clamp_()
    update_average(run.average, run.model, run.step)
    return terms


def _check_finite(values: Tensor, what: str, step: int) -> None:
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"{what} is not finite in step {step}; check the images for extreme values, or fit with a smaller "
            "learning_rate"
        )


def _history_row(run: Run, terms: Terms, seconds: float) -> dict[str, float]:
    constraints = run.objective.constraints
    row = {
        "step": float(run.step + 1),
        "seconds": seconds,
        "loss": terms.loss.item(),
        "reconstruction": terms.reconstruction.item(),
        "latent_divergence": terms.latent.item(),
        "presence": terms.presence.item(),
        "boxes": terms.boxes.item(),
        "lesson": terms.lesson.item(),
        "overlap": terms.overlap.item(),
        "objects": terms.objects.item(),
        "proposed_objects": terms.proposed.item(),
        "area": terms.area.item(),
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "warmup": warmup_weight(run.age - run.warmup_start, run.settings.n_steps),
        "dpp_rho": run.model.presence_prior.log_rho.exp().item(),
        "dpp_length": run.model.presence_prior.log_length.exp().item(),
    }
    return row | {f"penalty_{name}": constraints.penalty(name).item() for name in constraints.names}


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means of some steps' rows, at the last one's step and time."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return means | {name: rows[-1][name] for name in ("step", "seconds")}


def _show(bar: tqdm[Any], row: dict[str, float]) -> None:
    bar.set_postfix_str(
        f"L_rec {row['reconstruction']:.2f}, {row['objects']:.1f} objects, area {row['area']:.1%}",
        refresh=False,
    )


def _recover(run: Run, collapse: Collapse) -> None:
    """Start the presence network anew and look for objects by residual again; decoders keep what they know."""
    found = "no object anywhere" if collapse == "empty" else "as many objects as fit everywhere"
    warnings.warn(
        f"training had collapsed in step {run.step}: {found}. The presence network was reset and the warm-up "
        "started again. If this repeats, check that density, area and object_size describe the images",
        CollapseWarning,
        stacklevel=2,
    )
    run.model.proposal_head.reset_presence()
    run.warmup_start = run.age
    run.average = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
