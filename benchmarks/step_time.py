"""What a training step costs beside its U-Net: the same batch, precision and threads, in one run.

    python benchmarks/step_time.py [--network small|reference] [--batch-size 16] [--device cpu]

Alternates full training steps with the bare forward and backward pass of the same U-Net, and prints the
medians and their ratio; writes results/step_time_NETWORK.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.model.device import autocast_for
from cellsegmenter.training import loop

RESULTS = Path(__file__).parent / "results"


def seconds(action: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=("small", "reference"), default="small")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    images = make_nuclei(options.batch_size, size=80, count=(4, 9), random_state=0).images
    segmenter = CellSegmenter(
        network=options.network,
        device=options.device,
        n_steps=2,
        batch_size=options.batch_size,
        random_state=0,
    ).fit(images)
    device = segmenter.model_.box_code.bias.device
    model = segmenter.model_.train()
    bounds = segmenter._bounds()
    objective = segmenter._objective(bounds, segmenter.noise_scale_).to(device)
    run = loop._Run(model, objective, segmenter._training_settings(bounds, options.network, 0))
    batch = torch.from_numpy(
        np.stack([segmenter._prepare(v, bounds, None)[0][...] for v in _views(images)])
    ).to(device)

    def full_step() -> None:
        loop._training_step(run, batch)

    def bare_unet() -> None:
        model.zero_grad(set_to_none=True)
        with autocast_for(device):
            features = model.unet(batch)
        sum(part.float().square().mean() for part in features).backward()

    times: dict[str, list[float]] = {"full_step": [], "bare_unet": []}
    for repeat in range(options.repeats + 3):
        for name, action in (("full_step", full_step), ("bare_unet", bare_unet)):
            elapsed = seconds(action, device)
            if repeat >= 3:
                times[name].append(elapsed)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    result = {
        "network": options.network,
        "batch_size": options.batch_size,
        "device": device.type,
        "threads": torch.get_num_threads(),
        **{f"{name}_ms": round(1000 * value, 1) for name, value in medians.items()},
        "ratio": round(medians["full_step"] / medians["bare_unet"], 2),
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"step_time_{options.network}_{device.type}.json").write_text(
        json.dumps(result, indent=2) + "\n"
    )


def _views(images: np.ndarray) -> list[np.ndarray]:
    return [image[None] for image in images]


if __name__ == "__main__":
    main()
