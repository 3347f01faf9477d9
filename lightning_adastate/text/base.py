"""The contract of a text encoder: prompts in, embeddings out."""

# Shapes: B batch, S text tokens, D text dim.

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module, ABC):
    """Turn prompts into embeddings. Frozen: it gets no gradient and no optimiser."""

    text_dim: int
    max_tokens: int

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return ``[B, S, D]``, S = ``max_tokens``, zeros behind each prompt's end.

        The result lies where the encoder's weights do, on the CPU if it has none.

        Raises:
            ValueError: If a prompt is empty or too long.
        """

    def problem(self, prompt: str) -> str | None:
        """Say why a prompt cannot be encoded, as in "has 9 words, the most is 8"; ``None`` if it can.

        Cheap: thousands of captions are asked about before training begins. An encoder that refuses prompts tells here.
        """
        del prompt
        return None

    @property
    def fingerprint(self) -> str:
        """Name, in a short hash, all that an embedding depends on but the prompt.

        This covers the class, its sizes and its registered weights; an encoder with more options adds them.
        """
        digest = hashlib.sha256(
            f"{type(self).__module__}.{type(self).__qualname__}"
            f"/{self.text_dim}/{self.max_tokens}".encode()
        )
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"/{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]
