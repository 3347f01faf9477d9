"""Which tensors are sharded over processes, told without the import that only sharded ones need."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

MODULE = "torch.distributed.tensor"
"""Where sharded tensors are made. Its import takes as long as half of torch."""


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Tell whether a tensor is sharded: without its module in this process, none can be."""
    if MODULE not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
