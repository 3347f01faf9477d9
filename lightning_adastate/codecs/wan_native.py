"""Wan's own file of the VAE (``Wan2.1_VAE.pth``), brought into diffusers' module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightning_adastate.weights.files import WeightFiles

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

FILE = "Wan2.1_VAE.pth"
"""Its name in Wan's folders, which Self-Forcing's instructions download too."""


def native_file(folder: str) -> Path | None:
    """Return Wan's own file, if ``folder`` is one or holds one."""
    path = Path(folder)
    if path.is_file():
        return path
    return path / FILE if (path / FILE).is_file() else None


def load_native(file: Path, dtype: torch.dtype) -> AutoencoderKLWan:
    """Return the VAE of Wan's own file. Sizes are read from the weights, the rest is Wan2.1's.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    files = WeightFiles(file)
    native = {name: files[name].to(dtype) for name in files.names}
    weights = convert_wan_vae_to_diffusers(native)  # type: ignore[no-untyped-call]
    try:
        sizes = {
            "base_dim": len(weights["encoder.conv_in.weight"]),
            "z_dim": len(weights["post_quant_conv.weight"]),
        }
        with torch.device("meta"):
            vae: AutoencoderKLWan = AutoencoderKLWan(**sizes)
        vae.load_state_dict(weights, assign=True)
    except KeyError as error:
        raise ValueError(f"{str(file)!r} is no file of Wan2.1's VAE: it lacks {error}") from error
    except RuntimeError as error:
        found = str(error).splitlines()
        line = (found[1:] or found)[0].strip()
        raise ValueError(f"{str(file)!r} is no file of Wan2.1's VAE: {line}") from error
    return vae
