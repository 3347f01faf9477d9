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
    "CachedEncoder": "text",
    "CausalFlowMatching": "training",
    "Chunk": "types",
    "Codec": "codecs",
    "ComposedAnchor": "anchors",
    "CompressedAnchor": "anchors",
    "ConsistencyDistillation": "training",
    "ContinuedRollouts": "rollouts",
    "CounterNoise": "noise",
    "CriticLoss": "losses",
    "DMDLoss": "losses",
    "DiagonalSchedule": "schedules",
    "EMAAnchor": "anchors",
    "Event": "types",
    "FewStepSchedule": "schedules",
    "FlowMatching": "training",
    "FrameWeighting": "losses",
    "FreshRollouts": "rollouts",
    "FunctionReward": "rewards",
    "GeneratorLoss": "losses",
    "HorizonWeighting": "losses",
    "JointRollouts": "rollouts",
    "KV": "types",
    "LoRABackbone": "backbones",
    "LongRollouts": "rollouts",
    "MotionDMDLoss": "losses",
    "NoisedData": "rollouts",
    "ODERegression": "training",
    "PixelShuffleCodec": "codecs",
    "PooledEMAAnchor": "anchors",
    "PreviewCodec": "codecs",
    "RelativisticCache": "caches",
    "ReplacementAnchor": "anchors",
    "Reward": "rewards",
    "RollingSchedule": "schedules",
    "Rollouts": "rollouts",
    "Schedule": "schedules",
    "SelectedAnchor": "anchors",
    "SelfForcing": "training",
    "SiDLoss": "losses",
    "SlidingCache": "caches",
    "StaticAnchor": "anchors",
    "StreamModule": "training",
    "StreamPipeline": "streaming",
    "StreamState": "types",
    "Streamer": "streaming",
    "TextEncoder": "text",
    "TinyCodec": "codecs",
    "TriangularAnchor": "anchors",
    "UMT5Encoder": "text",
    "UniformWeighting": "losses",
    "VocabularyEncoder": "text",
    "WanCodec": "codecs",
    "WanTransformer": "backbones",
    "WarmupDecay": "training",
    "load_into": "weights",
    "load_module": "recipes.loading",
    "load_stream_state": "streaming",
    "load_weights": "weights",
    "probe_attention": "analysis.attention",
    "save_stream_state": "streaming",
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
