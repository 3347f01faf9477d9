"""The networks that are timed, with random weights, and the ways to run them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.anchors import AdaptiveAnchor, Anchor, StaticAnchor
from lightning_adastate.backbones import WanTransformer, wan_block
from lightning_adastate.backbones.attention import KERNELS, kernels_of
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.streamer import Streamer

CHUNK = 3


class Size(NamedTuple):
    """A network, its latents and the VAE that goes with it."""

    dim: int
    heads: int
    layers: int
    ffn_dim: int
    latent: tuple[int, int, int]
    text: tuple[int, int]  # tokens, width
    freq_dim: int
    vae_width: int


WAN_LATENT, WAN_TEXT = (16, 60, 104), (512, 4096)  # 480 x 832 pixels
SIZES = {
    "tiny": Size(48, 2, 2, 96, (16, 4, 6), (8, 16), 32, 8),
    "small": Size(128, 4, 4, 512, (16, 8, 12), (512, 64), 64, 24),
    "medium": Size(256, 4, 6, 1024, (16, 12, 20), (512, 64), 64, 24),
    "1.3B": Size(1536, 12, 30, 8960, WAN_LATENT, WAN_TEXT, 256, 96),
    "14B": Size(5120, 40, 40, 13824, WAN_LATENT, WAN_TEXT, 256, 96),
}
ANCHORS = {"none": lambda: StaticAnchor(0), "state": lambda: AdaptiveAnchor(1)}
PLAIN = "plain"
MODES = {  # compile_blocks, cuda_graphs
    PLAIN: ("never", "never"),
    "eager": ("never", "never"),
    "compiled": ("steady", "never"),
    "graphs": ("never", "steady"),
    "compiled+graphs": ("steady", "steady"),
}


@contextmanager
def made_as(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Make weights of this type on this device at once: 14B in float32 would not fit beside others."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def backbone(size: Size, device: torch.device, dtype: torch.dtype) -> WanTransformer:
    """Return a network of random weights whose head is not zero."""
    torch.manual_seed(0)
    with made_as(dtype, device):
        model = WanTransformer(
            size.dim,
            ffn_dim=size.ffn_dim,
            num_heads=size.heads,
            num_layers=size.layers,
            freq_dim=size.freq_dim,
            text_dim=size.text[1],
            text_tokens=size.text[0],
        )
        torch.nn.init.normal_(model.head.head.weight, std=0.05)
    return model.eval().requires_grad_(requires_grad=False)


def streamer_of(model: WanTransformer, cached_frames: int, anchor: str) -> Streamer:
    """Return a stream of chunks of 3 in 4 denoise passes and a clean pass, behind so many cached frames."""
    made: Anchor = ANCHORS[anchor]()
    cache = RelativisticCache(window_frames=cached_frames + CHUNK)
    return Streamer(model, anchor=made, cache=cache, schedule=FewStepSchedule(CHUNK))


def prompt(size: Size, device: torch.device, streams: int = 1) -> Tensor:
    """Return random embeddings of as many prompts."""
    return torch.randn(streams, *size.text, device=device)


class Variant(NamedTuple):
    """A way to run a network."""

    mode: str
    attention: str = "sdpa"

    def choose(self, model: WanTransformer) -> None:
        """Run it so from now on."""
        model.compile_blocks, model.cuda_graphs = MODES[self.mode]
        names = kernels_of(self.attention)
        model.kernels = names
        for part in model.modules():
            if isinstance(part, wan_block.WanAttention):
                part.kernels = names


def kernels_here(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return the attention kernels that run a stream on this device, asked of the backbones at run time."""
    sample = torch.empty(1, 1, 1, 128, device=device, dtype=dtype)
    return [
        name
        for name, kernel in KERNELS.items()
        if kernel.missing() is None and kernel.takes(sample, None)
    ]


def kernel_of(choice: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the kernel that a choice such as ``auto`` takes here, for rows to name."""
    here = kernels_here(device, dtype)
    return next((name for name in kernels_of(choice) if name in here), choice)


def forget_compiled() -> None:
    """Let the next configuration compile anew: guards of many shapes cost time, and their number is limited."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    wan_block.compiled_block.cache_clear()
