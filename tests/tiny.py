"""Real classes at tiny size, shared by tests."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from lightning_adastate.anchors import AdaptiveAnchor, Anchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import Cache, RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV

GOLDEN = Path(__file__).parent / "golden"
LATENT = (16, 4, 6)


def golden_backbone(seed: int = 0) -> WanTransformer:
    """The tiny model of the recordings, with its weights."""
    model = WanTransformer(
        96, ffn_dim=192, num_heads=4, num_layers=2, freq_dim=64, text_dim=48, text_tokens=16
    )
    weights = load_file(GOLDEN / f"weights_seed{seed}.safetensors")
    model.load_state_dict({key.removeprefix("model."): value for key, value in weights.items()})
    return model.eval()


def streamer(
    anchor: Anchor | None = None,
    cache: Cache | None = None,
    *,
    backbone: WanTransformer | None = None,
    chunk_frames: int = 3,
    **schedule: object,
) -> Streamer:
    """AdaState on the tiny model, unless told otherwise."""
    return Streamer(
        golden_backbone() if backbone is None else backbone,
        anchor=AdaptiveAnchor(1) if anchor is None else anchor,
        cache=RelativisticCache(window_frames=6) if cache is None else cache,
        schedule=FewStepSchedule(chunk_frames, **schedule),
    )


def text(rows: int = 1, seed: int = 5) -> torch.Tensor:
    """Random text embeddings ``[B, 16, 48]``."""
    return torch.randn(rows, 16, 48, generator=torch.Generator().manual_seed(seed))


def frames(*numbers: int, batch: int = 1, frame_indices: tuple[int, ...] | None = None) -> KV:
    """KV whose every entry of frame i is ``numbers[i]`` (values: its negative), so contents can be read."""
    content = torch.tensor([float(n) for n in numbers]).reshape(1, 1, -1, 1, 1, 1)
    key = content.expand(2, batch, -1, 5, 2, 4).contiguous()
    return KV(key, -key, tuple(numbers) if frame_indices is None else frame_indices)


def contents(kv: KV | tuple[KV, ...] | None) -> list[float]:
    """Read frame numbers back, checking that keys, values and all tokens agree."""
    if isinstance(kv, tuple):
        return [number for part in kv for number in contents(part)]
    if kv is None:
        return []
    flat = kv.key_LBFTND.movedim(2, 0).flatten(1)
    assert torch.equal(flat, -kv.value_LBFTND.movedim(2, 0).flatten(1))
    assert torch.equal(flat, flat[:, :1].expand_as(flat)), "a frame is not uniform"
    return [round(float(value), 6) for value in flat[:, 0]]
