"""Which device a name on the command line means, found out before anything is built."""

from __future__ import annotations

import torch


def named_device(name: str) -> torch.device:
    """Return the device that ``name`` means; ``auto`` is CUDA if there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"`device` must be auto, cpu, cuda, cuda:N or mps, got {name!r}"
        ) from error
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= count:
        raise ValueError(
            f"`device` is {name!r}, and this machine has {count} of that kind; use auto or cpu"
        )
    return device
