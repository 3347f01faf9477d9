"""Teacher trajectories in a folder of safetensors files: each whole or not there."""

# Shapes: N rows of a file, K states, F frames, C channels, H W latent height / width.

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_adastate.files import save_tensors

FORMAT = 1
"""Version of a file's layout."""

Setting = str | int | float | bool | None
"""What a file says about how it was made."""


class Trajectory(NamedTuple):
    """One solution of the teacher's ODE.

    Args:
        latents_KFCHW: Its states, noisiest first, the clean end last, float32.
        context_FCHW: The real clip whose past the teacher saw, if it did.
        prompt: Its prompt.
    """

    latents_KFCHW: Tensor
    context_FCHW: Tensor | None
    prompt: str


class TrajectorySource(ABC):
    """Stored trajectories of one kind.

    ``sigmas`` are the noise levels of the states, the last 0.
    """

    sigmas: tuple[float, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Count the trajectories."""

    @abstractmethod
    def __getitem__(self, index: int) -> Trajectory:
        """Read one."""


class ShardHeader(NamedTuple):
    """What is known of a file without reading its tensors."""

    prompts: tuple[str, ...]
    settings: dict[str, Setting]
    sigmas: tuple[float, ...]


def shard_path(folder: Path, first: int) -> Path:
    """Return the name of the file that begins with trajectory ``first``."""
    return folder / f"trajectories-{first:08d}.safetensors"


def write_shard(
    path: Path,
    latents_NKFCHW: Tensor,
    sigmas: Sequence[float],
    prompts: Sequence[str],
    *,
    context_NFCHW: Tensor | None = None,
    settings: Mapping[str, Setting],
) -> None:
    """Write trajectories beside their place and move them there.

    Args:
        path: The file.
        latents_NKFCHW: States in the precision they are stored in, the clean end last.
        sigmas: Noise levels of the states; 0 for the end is added.
        prompts: One per trajectory.
        context_NFCHW: The real clips whose past the teacher saw, if it did.
        settings: How they were made.

    Raises:
        ValueError: If the states are not finite.
    """
    if not bool(latents_NKFCHW.isfinite().all()):
        raise ValueError(
            f"the trajectories for '{path}' are not finite; look at the teacher's weights"
        )
    header = {"format": FORMAT, "prompts": list(prompts), "settings": dict(settings)}
    tensors = {
        "latents": latents_NKFCHW,
        "sigmas": torch.tensor([*sigmas, 0.0], dtype=torch.float64),
    }
    if context_NFCHW is not None:
        tensors["context"] = context_NFCHW
    save_tensors(path, tensors, {"trajectories": json.dumps(header)})


def read_header(path: Path) -> ShardHeader:
    """Return what a file says of itself.

    Raises:
        ValueError: If it is unreadable or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {}).get("trajectories", "{}"))
            if header.get("format") != FORMAT:
                raise ValueError(f"it has no trajectories of format {FORMAT}")
            sigmas = handle.get_tensor("sigmas").tolist()
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"cannot read trajectories from '{path}': {error}") from error
    return ShardHeader(tuple(header["prompts"]), header["settings"], tuple(sigmas))


class ShardSource(TrajectorySource):
    """Read a folder that ``trajectories`` has written. Only the row that is asked for is read.

    Args:
        folder: Where the files are.

    Raises:
        ValueError: If there are none, or they were made with different settings.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("trajectories-*.safetensors"))
        if not paths:
            raise ValueError(f"folder '{folder}' holds no trajectories-*.safetensors")
        headers = [read_header(path) for path in paths]
        for path, header in zip(paths, headers, strict=True):
            if header.settings != headers[0].settings:
                raise ValueError(f"'{path}' and '{paths[0]}' were made with different settings")
        self.sigmas = headers[0].sigmas
        self.rows = [
            (path, row, prompt)
            for path, header in zip(paths, headers, strict=True)
            for row, prompt in enumerate(header.prompts)
        ]

    def __len__(self) -> int:
        """Count the trajectories."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Trajectory:
        """Read one."""
        path, row, prompt = self.rows[index]
        with safe_open(path, framework="pt") as handle:
            latents = handle.get_slice("latents")[row]
            context = handle.get_slice("context")[row] if "context" in handle.keys() else None  # noqa: SIM118
        return Trajectory(latents.float(), None if context is None else context.float(), prompt)
