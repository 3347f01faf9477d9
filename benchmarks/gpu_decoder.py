"""Step 3: Wan's VAE along its paths at 480 x 832, and the kernels that take most of its time."""

from pathlib import Path

import torch
from bound import MatmulRate
from gpu_kernels import heaviest
from models import SIZES
from rows import Row


def decoder_parts(scale, folder: Path):
    """Return step 3: cuDNN's search off and on, then the heaviest kernels of each path."""
    from codec import decoders

    del folder
    size = SIZES[scale.model]
    compiled = not scale.is_small
    paths = decoders(size.vae_width, size.latent, scale.device, scale.dtype, compiled=compiled)
    rate = MatmulRate(scale.device, getattr(torch, scale.dtype))
    exact = {name: path for name, path in paths.items() if name in ("plain", "fast", "compiled")}

    def measure(search: bool) -> tuple[list[Row], dict[str, object]]:
        from dataclasses import replace

        from codec import measure_decoders

        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, search
        try:
            rows, own = measure_decoders(exact, size.vae_width, size.latent, rate, scale.chunks)
        finally:
            torch.backends.cudnn.benchmark = before
        how = ", cudnn.benchmark" if search else ""
        return [replace(row, path=row.path + how) for row in rows], own

    return {
        "search off": lambda: measure(False),
        "search on": lambda: measure(True),
        **{
            f"kernels, {name}": lambda path=path: ([], _kernels(path, size.latent, scale.device))
            for name, path in exact.items()
            if name != "plain"
        },
    }


@torch.no_grad()
def _kernels(codec, latent: tuple[int, int, int], device: torch.device) -> dict[str, object]:
    """Profile a chunk of a stream that has begun."""
    latents = torch.randn(1, 3, *latent, device=device)
    _, memory = codec.decode(latents, codec.empty())
    _, memory = codec.decode(latents, memory)
    return {"ms": heaviest(lambda: codec.decode(latents, memory), device, 20)}
