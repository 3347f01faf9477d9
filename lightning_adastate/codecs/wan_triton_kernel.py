"""The kernel of `wan_triton`; imported where it is launched, for Triton is not everywhere."""

# Shapes: B batch, F frames, H W height / width, C channels last. A row is the channels of one pixel.

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

ROWS = 16
"""Pixels of a program: some kilobytes in flight for each."""


# Of Triton's language only what is built in: its library in Triton is compiled or interpreted as it was when it was
# first imported, which may have been long before a test asked for the interpreter.
@triton.jit
def _plus(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add two numbers."""
    return a + b


@triton.jit  # type: ignore[untyped-decorator]
def _norm_silu(  # type: ignore[no-untyped-def]  # noqa: ANN202
    out,  # noqa: ANN001
    x,  # noqa: ANN001
    gamma,  # noqa: ANN001
    bias,  # noqa: ANN001
    rows,  # noqa: ANN001
    rows_of_stream,  # noqa: ANN001
    rows_before,  # noqa: ANN001
    channels,  # noqa: ANN001
    tiny,  # noqa: ANN001
    HAS_BIAS: tl.constexpr,
    ROWS_HERE: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Norm and activate some rows; a stream's rows begin behind its history."""
    row = tl.program_id(0).to(tl.int64) * ROWS_HERE + tl.arange(0, ROWS_HERE)
    column = tl.arange(0, CHANNELS)
    here = (row[:, None] < rows) & (column[None, :] < channels)
    value = tl.load(x + row[:, None] * channels + column[None, :], mask=here, other=0.0).to(
        tl.float32
    )
    inside = column < channels
    if HAS_BIAS:
        shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        value += shift[None, :]
    scale = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    mean_square = tl.reduce(value * value, 1, _plus) / channels
    normed = value * tl.rsqrt(mean_square + tiny)[:, None] * scale[None, :]
    activated = normed / (1.0 + tl.exp(-normed))
    behind = row + (row // rows_of_stream + 1) * rows_before
    tl.store(
        out + behind[:, None] * channels + column[None, :],
        activated.to(out.dtype.element_ty),
        mask=here,
    )


def launch(
    joined_BFHWC: Tensor, x_BFHWC: Tensor, gamma_C: Tensor, bias_C: Tensor | None, tiny: float
) -> None:
    """Write the activated frames behind the history in ``joined``; both must be contiguous."""
    batch, frames, height, width, channels = x_BFHWC.shape
    held = joined_BFHWC.shape[1] - frames
    rows = batch * frames * height * width
    if not rows:
        return
    _norm_silu[(triton.cdiv(rows, ROWS),)](
        joined_BFHWC,
        x_BFHWC,
        gamma_C,
        gamma_C if bias_C is None else bias_C,
        rows,
        frames * height * width,
        held * height * width,
        channels,
        tiny,
        HAS_BIAS=bias_C is not None,
        ROWS_HERE=ROWS,
        CHANNELS=triton.next_power_of_2(channels),
    )


def is_interpreted() -> bool:
    """Whether Triton runs its kernels in Python, as tests on a CPU ask it to."""
    return bool(knobs.runtime.interpret)
