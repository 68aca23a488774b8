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

from cellsegmenter.datasets import make_nuclei
from cellsegmenter.learning import new_model, training_objective, training_settings
from cellsegmenter.model.device import autocast_for, channels_last_pays, resolve_device
from cellsegmenter.normalize import normalize_image
from cellsegmenter.parameters import Parameters, bounds_of, model_config
from cellsegmenter.training.loop import Run, training_step

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
    parser.add_argument("--shape", default="free", choices=("blob", "free"))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    device = resolve_device(options.device)
    parameters = Parameters(batch_size=options.batch_size)
    bounds = bounds_of(parameters)
    config = model_config(parameters, bounds, options.network, shape=options.shape, n_channels=1)
    model = new_model(config, seed=0).to(device).train()
    if channels_last_pays(device):
        model.to(memory_format=torch.channels_last)
    objective = training_objective(parameters, bounds, shape=options.shape, noise_scale=0.1).to(device)
    settings = training_settings(
        parameters, bounds, options.network, [], shape=options.shape, from_scratch=True, seed=0
    )
    run = Run(model, objective, settings)
    images = make_nuclei(options.batch_size, size=80, count=(4, 9), random_state=0).images
    batch = torch.from_numpy(np.stack([normalize_image(image)[None] for image in images])).to(device)

    def full_step() -> None:
        training_step(run, batch)

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


if __name__ == "__main__":
    main()
