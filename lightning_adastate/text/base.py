"""The contract of a text encoder: prompts in, embeddings out."""

# Shapes: B batch, S text tokens, D text dim.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

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
