"""Streaming autoregressive video diffusion with pluggable anchors."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Importing torch and Lightning takes seconds; `--version`, `--help` and the parsers need neither.
_HOMES = {
    "AdaptiveAnchor": "anchors",
    "Anchor": "anchors",
    "Backbone": "backbones",
    "Cache": "caches",
    "Chunk": "types",
    "Codec": "codecs",
    "CounterNoise": "noise",
    "EMAAnchor": "anchors",
    "Event": "types",
    "FewStepSchedule": "schedules",
    "FlowMatching": "training",
    "KV": "types",
    "LoRABackbone": "backbones",
    "PixelShuffleCodec": "codecs",
    "RelativisticCache": "caches",
    "ReplacementAnchor": "anchors",
    "Schedule": "schedules",
    "SelfForcing": "training",
    "SlidingCache": "caches",
    "StaticAnchor": "anchors",
    "StreamModule": "training.base",
    "StreamState": "types",
    "Streamer": "streamer",
    "TextEncoder": "text",
    "TriangularAnchor": "anchors",
    "VocabularyEncoder": "text",
    "WanTransformer": "backbones",
    "load_into": "weights",
    "load_module": "cli.loading",
    "load_stream_state": "checkpoints",
    "load_weights": "weights",
    "save_stream_state": "checkpoints",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *_HOMES})
