"""Vocabulary encoder: one fixed vector per word, made from the word's hash."""

# Shapes: B batch, S text tokens, D text dim.

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lightning_adastate.text.base import TextEncoder


@lru_cache(maxsize=4096)
def word_signs(word: str, dim: int) -> tuple[float, ...]:
    """Return ``dim`` signs (+1 or -1), a pure function of the word, the same on every machine."""
    digest = hashlib.shake_256(word.encode()).digest((dim + 7) // 8)
    return tuple(1.0 if digest[i // 8] >> (i % 8) & 1 else -1.0 for i in range(dim))


class VocabularyEncoder(TextEncoder):
    """Give every word its own random signs; any word is in the vocabulary.

    No weights, no downloads and nothing to broadcast. Words are lower-cased and punctuation is dropped.
    Cross-attention does not see the order of words, so the set of words is the meaning.

    Args:
        text_dim: Length of a word's vector; the backbone's ``text_dim`` must be the same.
        max_tokens: The most words a prompt may have.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, text_dim: int = 32, *, max_tokens: int = 8) -> None:
        super().__init__()
        for name, value in (("text_dim", text_dim), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        self.text_dim = text_dim
        self.max_tokens = max_tokens

    def problem(self, prompt: str) -> str | None:
        """Say why a prompt cannot be encoded; ``None`` if it can."""
        words = _words(prompt)
        if not words:
            return f"is empty: {prompt!r}; write at least one word"
        if len(words) > self.max_tokens:
            return f"has {len(words)} words, the most is {self.max_tokens}: {prompt!r}; shorten it or raise `max_tokens`"
        return None

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return ``[B, S, D]`` float32 on the CPU, zeros behind each prompt's end."""
        if isinstance(prompts, str):
            raise TypeError(f"expected a list of prompts, got the string {prompts!r}")
        text_BSD = torch.zeros(len(prompts), self.max_tokens, self.text_dim)
        for row, prompt in enumerate(prompts):
            wrong = self.problem(prompt)
            if wrong is not None:
                raise ValueError(f"prompt {row} {wrong}")
            words = _words(prompt)
            signs = [word_signs(word, self.text_dim) for word in words]
            text_BSD[row, : len(words)] = torch.tensor(signs)
        return text_BSD


def _words(prompt: str) -> list[str]:
    return re.findall(r"\w+", prompt.lower())
