"""What labels would give on blobs: a convolutional network that is told every count, beside `touching_blobs.py`.

    python benchmarks/blob_ceiling.py [--max-overlap 0.3] [--images 20000] [--epochs 12] [--seed 0]

A residual network of twelve convolutions is trained on images of 2 to 6 blobs and their counts, turned and flipped at
random, and counts the 500 test images of `touching_blobs.py`.  Where it errs too, images hardly say how many blobs
they show.  Writes results/blob_ceiling.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scoring import keep_row
from torch import Tensor, nn
from torch.nn import functional
from touching_blobs import TEST_SEED

from cellsegmenter.datasets import make_blobs

RESULTS = Path(__file__).parent / "results" / "blob_ceiling.json"
CHANNELS = (16, 32, 64, 96)  # at a half, a quarter, ... of the resolution
MOST = 6  # blobs in an image
BATCH = 64


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


def counting_network() -> nn.Sequential:
    """(B, 1, H, W) to logits (B, MOST + 1) of the count."""
    layers: list[nn.Module] = []
    for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(), Residual(after)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, MOST + 1))


def turned(images: Tensor, random: np.random.Generator) -> Tensor:
    """A batch (B, 1, H, W) after one of the eight turns and flips."""
    images = torch.rot90(images, int(random.integers(4)), (2, 3))
    return images.flip(3) if random.integers(2) else images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-overlap", type=float, default=0.3)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    train = make_blobs(options.images, max_overlap=options.max_overlap, random_state=1000 + options.seed)
    test = make_blobs(500, max_overlap=options.max_overlap, random_state=TEST_SEED)
    images, counts = torch.as_tensor(train.images)[:, None], torch.as_tensor(train.count)
    network = counting_network()
    network(images[:1])  # gives the lazy layer its size
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    n_steps = options.epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=n_steps)
    started = time.perf_counter()
    for _ in range(options.epochs):
        for chosen in random.permutation(len(images))[: len(images) // BATCH * BATCH].reshape(-1, BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(turned(images[chosen], random)), counts[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"cross-entropy of the last batch {loss.item():.3f}", flush=True)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        found = network.eval()(torch.as_tensor(test.images)[:, None]).argmax(1).numpy()
    asked = {name: getattr(options, name) for name in ("max_overlap", "images", "epochs", "seed")}
    answer = {"counting_accuracy": float(np.mean(found == test.count)), "seconds": round(seconds)}
    keep_row(RESULTS, asked, answer)


if __name__ == "__main__":
    main()
