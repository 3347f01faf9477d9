"""What this machine has: versions, the card, free memory."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from lightning_adastate.streaming.speed import DeviceFacts

PACKAGES = (
    "lightning-adastate",
    "torch",
    "triton",
    "lightning",
    "av",
    "diffusers",
    "transformers",
    "flash-attn",
    "peft",
)
"""Distributions whose versions matter; they are asked for and not imported."""


@dataclass(frozen=True)
class Machine:
    """What was found.

    Args:
        versions: By distribution; ``None`` is not installed.
        cuda_build: CUDA that PyTorch was built for; ``None`` is a build without.
        facts: Of the device that a stream would run on.
        free_bytes: Memory of that device that nobody holds; ``None`` is unknown.
        total_bytes: All of its memory.
    """

    versions: dict[str, str | None]
    cuda_build: str | None
    facts: DeviceFacts
    free_bytes: int | None
    total_bytes: int | None

    @classmethod
    def here(cls) -> Machine:
        """Look."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        free, total = torch.cuda.mem_get_info(device) if device.type == "cuda" else _host_memory()
        found: dict[str, str | None] = {"Python": platform.python_version()}
        found |= {name: _version(name) for name in PACKAGES}
        return cls(found, torch.version.cuda, DeviceFacts.of(device), free, total)

    @property
    def device(self) -> torch.device:
        """Return the device that was looked at."""
        return torch.device(self.facts.kind)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _host_memory() -> tuple[int | None, int | None]:
    """Return free and all bytes of the host's memory, where the system tells."""
    names = ("SC_PAGE_SIZE", "SC_AVPHYS_PAGES", "SC_PHYS_PAGES")
    if not set(names) <= getattr(os, "sysconf_names", {}).keys():
        return None, None
    page, free, total = (os.sysconf(name) for name in names)
    return page * free, page * total
