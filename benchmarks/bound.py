"""The bound that measured times are compared with: operations of the matrix products, over the rate of this device.

The rate is that of a large square product in the dtype in use, with the threads in use, measured in turns with what
it is compared with. Nothing but matrix products, convolutions and attention is counted, at one rate for all: it is
a bound, not a forecast.
"""

# Shapes: B batch, S query tokens, K key tokens, N heads, D head dim.

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_adastate.analysis.layout import ChunkLayout, lay_out
from lightning_adastate.analysis.operations import Geometry, pass_flops
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.streaming.streamer import Streamer

SQUARES = {"cpu": (512, 1024), "cuda": (4096, 8192)}
"""Sides of the products to choose from; the faster is taken."""


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Time one call, the device waited for before and after."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return 1e3 * (time.perf_counter() - start)


class MatmulRate:
    """How fast this device multiplies large matrices; `sample` in turns with what is timed."""

    def __init__(self, device: torch.device, dtype: torch.dtype, tries: int = 5) -> None:
        self.device = device
        self.pairs = {
            side: [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]
            for side in SQUARES[device.type]
        }
        found = {side: [self._product(side) for _ in range(tries + 1)][1:] for side in self.pairs}
        self.side = max(found, key=lambda side: side**3 / statistics.median(found[side]))
        self.times = found[self.side]
        self.dtype = dtype

    def _product(self, side: int) -> float:
        left, right = self.pairs[side]
        return milliseconds(lambda: left @ right, self.device)

    def sample(self) -> None:
        """Time one more product."""
        self.times.append(self._product(self.side))

    @property
    def flops_per_second(self) -> float:
        """Return the rate of the median product."""
        return 2e3 * self.side**3 / statistics.median(self.times)

    def bound_ms(self, flops: float) -> float:
        """Return the milliseconds that so many operations take at this rate."""
        return 1e3 * flops / self.flops_per_second


def geometry_of(backbone: WanTransformer, latent: tuple[int, int, int]) -> Geometry:
    """Return what a pass of this network costs depends on."""
    rows, columns = backbone.token_grid(*latent[1:])
    weight = backbone.patch_embedding.weight
    return Geometry(
        num_layers=backbone.num_layers,
        num_heads=backbone.num_heads,
        head_dim=backbone.head_dim,
        ffn_dim=backbone.blocks[0].ffn[0].out_features,
        rows=rows,
        columns=columns,
        text_tokens=backbone.text_tokens,
        text_dim=backbone.text_dim,
        patch_values=weight[0].numel(),
        freq_dim=backbone.freq_dim,
        value_bytes=weight.element_size(),
    )


def steady_flops(geometry: Geometry, chunk: ChunkLayout) -> float:
    """Return the operations of a chunk of a full window.

    Prompt and times are embedded once per stream, so they are not counted (they are in `operations.chunk_flops`). A
    clean pass has to reach the last layer's keys and values, and no further.
    """
    total = 0.0
    for seen in chunk.passes:
        clean = seen.kind == "commit"
        one = pass_flops(geometry, seen.num_queries, seen.num_keys, kv_only=clean)
        values = seen.num_queries * geometry.tokens * geometry.patch_values
        patches = (1 if clean else 2) * 2 * values * geometry.dim  # in and out
        each = one.linear + one.self_attention + one.cross_attention + patches
        total += len(seen.timesteps) * each
    return total


def steady_chunk(streamer: Streamer) -> ChunkLayout:
    """Return what the passes of a chunk read once the window is full."""
    chunks = streamer.cache.max_frames // streamer.schedule.chunk_frames + 6
    return lay_out(streamer.anchor, streamer.cache, streamer.schedule, chunks)[-1]


def chunk_flops(streamer: Streamer, latent: tuple[int, int, int], streams: int = 1) -> float:
    """Return the operations of a chunk of all streams once the window is full."""
    assert isinstance(streamer.backbone, WanTransformer)
    geometry = geometry_of(streamer.backbone, latent)
    return streams * steady_flops(geometry, steady_chunk(streamer))


def counted(call: Callable[[], object]) -> float:
    """Run a call and return the operations of its matrix products, convolutions and attention."""
    aten = torch.ops.aten
    more = {  # PyTorch counts the attention of GPUs alone
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        call()
    return float(counter.get_total_flops())


def _attention(query, key, *rest, out_shape=None, **options) -> int:
    """Two products of queries and keys, all heads before tokens."""
    batch, heads, queries, dim = query
    return 4 * batch * heads * queries * key[2] * dim


def _attention_backward(gradient, query, key, *rest, out_shape=None, **options) -> int:
    """Five products: the scores again, and the gradients of scores, queries, keys and values."""
    return 5 * _attention(query, key) // 2
