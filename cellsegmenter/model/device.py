"""Which device, number format and memory layout a network runs best in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

__all__ = ["autocast_for", "channels_last_pays", "resolve_device", "threads_for"]

# Measured: with two threads, 512 × 512 px take twice the CPU seconds of one thread, and are not done sooner.
_PIXELS_PER_THREAD = 2**18


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant by `device`; "auto" is CUDA, else MPS, else the CPU.

    Raises
    ------
    ValueError
        If the device is unknown or not available here.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here ({error}); use device='auto' or 'cpu'"
        ) from error
    return resolved


def autocast_for(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 where the hardware multiplies it; elsewhere it is emulated, measured ten times slower.

    For networks only: geometry and likelihood stay in float32, because bfloat16 resolves a third of a pixel at
    x = 80.  An older torch cannot be asked what the CPU multiplies, and then the CPU stays in float32 as well.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        native = device.type == "cpu" and bool(capabilities.get("avx512_bf16", False))
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def channels_last_pays(device: torch.device) -> bool:
    """Convolutions in channels-last order: measured 5 to 15 % faster on CPUs, more on tensor cores; not on MPS."""
    return device.type in ("cpu", "cuda")


class _Limits:
    """The number of torch's threads while no limit holds, remembered where several threads of Python set limits.

    torch gives a new thread of Python what was set last, so that one of them cannot know what was there before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = 0
        self._unlimited = 0

    def set(self, limit: int) -> None:
        with self._lock:
            if self._held == 0:
                self._unlimited = torch.get_num_threads()
            self._held += 1
            torch.set_num_threads(max(1, min(self._unlimited, limit)))

    def lift(self) -> None:
        with self._lock:
            self._held -= 1
            torch.set_num_threads(self._unlimited)


_LIMITS = _Limits()


@contextmanager
def threads_for(n_pixels: int) -> Iterator[None]:
    """No more of torch's threads on the CPU than so many pixels keep busy; on a busy machine idle ones wait long."""
    _LIMITS.set(n_pixels // _PIXELS_PER_THREAD)
    try:
        yield
    finally:
        _LIMITS.lift()
