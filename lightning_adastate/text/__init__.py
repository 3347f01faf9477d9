"""Text encoders: prompts to embeddings."""

from lightning_adastate.text.base import TextEncoder
from lightning_adastate.text.cached import CachedEncoder
from lightning_adastate.text.umt5 import UMT5Encoder
from lightning_adastate.text.vocabulary import VocabularyEncoder

__all__ = ["CachedEncoder", "TextEncoder", "UMT5Encoder", "VocabularyEncoder"]
