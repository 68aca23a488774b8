"""The sizes of a model: plain numbers that travel with its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

__all__ = ["PRESETS", "ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a `StructuredVAE`; JSON-serialisable.

    The defaults are the paper's reference sizes (Suppl. S3, S4).
    """

    n_channels: int = 1
    window_size: int = 80  # px
    object_size: tuple[float, float] = (8.0, 28.0)  # shortest and longest side of a box, px
    initial_side: float = 16.0  # px
    expected_objects: float = 5.0  # per window
    unet_channels: int = 32
    unet_depth: int = 4
    fine_level: int = 0  # 0: f_map at native resolution
    grid_level: int = 3  # the object grid has a pitch of 2^grid_level px
    box_reach: float = 1.0  # in units of that pitch; the paper keeps centres in their cell (0.5)
    raster: int = 28  # px of an object's own raster
    object_channels: int = 32
    background_channels: int = 32
    latent_dim: int = 20
    background_latent_dim: int = 20
    shape: str = "free"  # the paper's, or "blob"
    appearance: str = "smooth"  # or "free", the paper's

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the object grid."""
        side = self.window_size >> self.grid_level
        return side, side

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> ModelConfig:
        config = cls(**values)  # type: ignore[arg-type]
        return replace(config, object_size=(float(config.object_size[0]), float(config.object_size[1])))


def grid_level_for(smallest_object: float) -> int:
    """The level whose pitch is about the smallest object's size (Sec. 2): 4 or 8 px."""
    return min(3, max(2, math.floor(math.log2(max(smallest_object, 1)))))


PRESETS: dict[str, dict[str, int]] = {
    # The paper's sizes, for a GPU.
    "reference": {},
    # For a CPU: half-resolution features, fewer channels and smaller rasters.
    "small": {
        "unet_channels": 12,
        "fine_level": 1,
        "raster": 20,
        "object_channels": 12,
        "background_channels": 16,
    },
}


def preset_of(config: ModelConfig) -> str | None:
    """The preset that a model was made by; None if by none of them."""
    varied = {size for sizes in PRESETS.values() for size in sizes}
    for name, sizes in PRESETS.items():
        preset = ModelConfig(**sizes)  # type: ignore[arg-type]
        if all(getattr(preset, size) == getattr(config, size) for size in varied):
            return name
    return None
