"""Text encoders: prompts to embeddings."""

from lightning_adastate.text.base import TextEncoder
from lightning_adastate.text.vocabulary import VocabularyEncoder

__all__ = ["TextEncoder", "VocabularyEncoder"]
