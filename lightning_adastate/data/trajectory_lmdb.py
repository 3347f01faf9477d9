"""Teacher trajectories in the LMDB layout of the public CausVid, Self-Forcing and Causal-Forcing tools."""

# Shapes: K entries of a row, F frames, C channels, H W latent height / width.

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightning_adastate.data.trajectory_shards import Trajectory, TrajectorySource
from lightning_adastate.flow import NUM_TIMESTEPS

if TYPE_CHECKING:
    import lmdb

FLOAT16_BYTES = 2


def is_lmdb(folder: Path) -> bool:
    """Whether a folder is an LMDB environment, or holds the shards of one."""
    return (folder / "data.mdb").is_file() or any(folder.glob("shard_*/data.mdb"))


class LmdbSource(TrajectorySource):
    """Read raw float16 rows ``[K, F, C, H, W]`` under the keys ``latents_{i}_data``.

    ``latents_shape`` and ``prompts_shape`` hold sizes as text, the number of rows first. A folder of
    ``shard_*`` environments is one long list, in the order of their names. The layout knows no noise levels, so
    they must be told. The last entry of a row is the clean end; if there is one more entry than that, it is the
    real clip whose past the teacher saw, behind the end (Causal Forcing).

    Args:
        folder: The environment, or the folder of its shards.
        timesteps: Timesteps in (0, 1000] of a row's states, falling.
        row_shape: ``[K, F, C, H, W]``, for files that have lost it; ``None`` reads it.

    Raises:
        ImportError: If ``lmdb`` is missing.
        ValueError: If the timesteps do not fit the rows, or the rows are no trajectories.
    """

    def __init__(
        self, folder: Path, *, timesteps: Sequence[float], row_shape: Sequence[int] | None = None
    ) -> None:
        self.sigmas = (*(step / NUM_TIMESTEPS for step in timesteps), 0.0)
        shards = sorted(path.parent for path in folder.glob("shard_*/data.mdb"))
        self.folders = shards or [folder]
        self.rows: list[tuple[Path, int]] = []
        shapes = set()
        for part in self.folders:
            count, *shape = self._shape(part)
            self.rows += [(part, row) for row in range(count)]
            shapes.add(tuple(row_shape or shape))
        if len(shapes) != 1:
            raise ValueError(f"the shards of '{folder}' have rows of different shapes: {shapes}")
        (self.row_shape,) = shapes
        self._check(folder)

    def _check(self, folder: Path) -> None:
        """Refuse rows that are no trajectories at these timesteps.

        Raises:
            ValueError: With the remedy.
        """
        if not self.row_shape:
            raise ValueError(
                f"`latents_shape` of '{folder}' has lost the shape of its rows (a defect of the public "
                "writer); give `row_shape: [K, F, C, H, W]`"
            )
        if len(self.row_shape) != 5:
            raise ValueError(
                f"rows of '{folder}' are {list(self.row_shape)}: clean latents, no trajectories"
            )
        states, entries = len(self.sigmas) - 1, self.row_shape[0]
        if entries - states not in (1, 2):
            raise ValueError(
                f"rows of '{folder}' have {entries} entries: {entries - 1} states and the end, or "
                f"{entries - 2} states, the end and the real clip; got {states} `timesteps`"
            )

    def __len__(self) -> int:
        """Count the rows of all shards."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Trajectory:
        """Read one row.

        Raises:
            ValueError: If it is not there, or of another size.
        """
        folder, row = self.rows[index]
        data = self._get(folder, f"latents_{row}_data")
        shape = self.row_shape
        wanted = FLOAT16_BYTES * torch.Size(shape).numel()
        if len(data) != wanted:
            raise ValueError(
                f"row {row} of '{folder}' has {len(data)} bytes, {list(shape)} in float16 needs {wanted}"
            )
        entries = torch.frombuffer(bytearray(data), dtype=torch.float16).reshape(shape).float()
        prompt = self._get(folder, f"prompts_{row}_data").decode("utf-8")
        count = len(self.sigmas)
        return Trajectory(entries[:count], entries[count] if shape[0] > count else None, prompt)

    def _shape(self, folder: Path) -> list[int]:
        text = self._get(folder, "latents_shape").decode()
        return [int(part) for part in text.split()]

    def _get(self, folder: Path, key: str) -> bytes:
        # Opened for each read: a process may have an environment open once, and none across a fork.
        with _open(folder) as environment, environment.begin() as transaction:
            found = transaction.get(key.encode())
        if found is None:
            raise ValueError(f"'{folder}' has no key {key!r}: no trajectories of the public tools")
        return bytes(found)


def _open(folder: Path) -> lmdb.Environment:
    try:
        package = importlib.import_module("lmdb")
    except ImportError as error:
        raise ImportError(
            "reading LMDB needs lmdb: pip install 'lightning-adastate[lmdb]'"
        ) from error
    try:
        environment: lmdb.Environment = package.open(
            str(folder), readonly=True, lock=False, readahead=False, meminit=False
        )
    except package.Error as error:
        raise ValueError(f"cannot read the LMDB '{folder}': {error}") from error
    return environment
