"""What one batch hands on to the next: a stream, saved with the checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypedDict

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_adastate.streaming.state_file import pack_stream_state, unpack_stream_state
from lightning_adastate.training.manual import ManualModule
from lightning_adastate.types import StreamState


class Packed(TypedDict):
    """A stream in plain containers and tensors (loads with ``weights_only``)."""

    tensors: dict[str, Tensor]
    header: str


class PersistentStreamModule(ManualModule, ABC):
    """Carry a stream from batch to batch, each rank its own, and resume it exactly."""

    persistent_state: StreamState | None = None
    _packed: list[Packed | None] | None = None

    @property
    @abstractmethod
    def is_persistent(self) -> bool:
        """Whether a batch goes on from the last one."""

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Save the streams of all ranks."""
        super().on_save_checkpoint(checkpoint)
        if not self.is_persistent:
            return
        name = self.generator.fingerprint
        own = None if self.persistent_state is None else pack(self.persistent_state, name)
        strategy = self.trainer.strategy
        checkpoint["persistent_states"] = [
            strategy.broadcast(own, src=rank) for rank in range(self.trainer.world_size)
        ]

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep the saved streams until training starts and the rank is known."""
        super().on_load_checkpoint(checkpoint)
        packed = checkpoint.get("persistent_states")
        self._packed = packed if isinstance(packed, list) else None

    def on_train_start(self) -> None:
        """Take this rank's stream out of the checkpoint."""
        if self._packed is None:
            return
        packed, self._packed = self._packed, None
        if len(packed) != self.trainer.world_size:
            rank_zero_warn(
                f"the checkpoint carries the streams of {len(packed)} processes, not of "
                f"{self.trainer.world_size}: new ones begin"
            )
            return
        own = packed[self.global_rank]
        if own is None:
            return
        try:
            self.persistent_state = unpack(own, self.device, self.generator.fingerprint)
        except ValueError as error:
            rank_zero_warn(f"the stream in the checkpoint does not fit, a new one begins: {error}")


def pack(state: StreamState, fingerprint: str) -> Packed:
    """Return a stream in plain containers; tensors are copies on the CPU."""
    tensors, header = pack_stream_state(state, fingerprint=fingerprint)
    copies = {name: part.detach().cpu().clone() for name, part in tensors.items()}
    return {"tensors": copies, "header": header}


def unpack(packed: Packed, device: torch.device, fingerprint: str) -> StreamState:
    """Return the stream on a device. Its text keys and values are to be made anew."""
    tensors = {name: part.to(device) for name, part in packed["tensors"].items()}
    return unpack_stream_state(tensors, packed["header"], fingerprint=fingerprint)
