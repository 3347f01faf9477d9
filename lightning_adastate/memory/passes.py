"""What passes of a network take of memory, found by running the real code on tensors that have none."""

# Shapes: L layers, B batch, F frames, S tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.rope import rope_table
from lightning_adastate.types import LivePositions, TextKV, Window

FEW, MORE = 2, 3
"""Blocks of the two shortened copies that are run; memory is affine in the number of blocks."""


class LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors made inside, views once: what is alive, and the most at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def mark(self) -> None:
        """Begin a new maximum here."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and count what it made."""
        del types
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, Tensor) and part.untyped_storage()._cdata not in self._known:
                whose = part.untyped_storage()
                given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
                if all(each.untyped_storage()._cdata != whose._cdata for each in given):
                    self._count(whose)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))

    def _drop(self, key: int, size: int) -> None:
        if self._known.pop(key, None) is not None:
            self.now -= size


def tensor_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Return the bytes of the memory behind tensors; what they share is counted once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def trained_numbers(module: nn.Module) -> int:
    """Count the numbers that learn."""
    return sum(each.numel() for each in module.parameters() if each.requires_grad)


def adamw_bytes(module: nn.Module, precision: Precision) -> int:
    """Return the bytes of AdamW's state once it has stepped: two running means, and a step count for each."""
    count = sum(each.requires_grad for each in module.parameters())
    means = 2 * trained_numbers(module) * precision.weights.itemsize
    return means + count * torch.float32.itemsize


@dataclass(frozen=True)
class Precision:
    """What Lightning's names of a precision mean for memory.

    Args:
        name: As of ``trainer.precision``.

    Raises:
        ValueError: If it is another one.
    """

    name: str = "32-true"

    def __post_init__(self) -> None:
        if self.name not in ("32-true", "32", "bf16-mixed", "bf16-true", "16-mixed", "16-true"):
            raise ValueError(
                f"`precision` must be 32-true, bf16-mixed, bf16-true, 16-mixed or 16-true, got {self.name!r}"
            )

    @property
    def half(self) -> torch.dtype:
        """Return the two-byte format."""
        return torch.bfloat16 if self.name.startswith("bf16") else torch.float16

    @property
    def weights(self) -> torch.dtype:
        """Return the format of the weights: with ``mixed`` they stay float32."""
        return self.half if self.name in ("bf16-true", "16-true") else torch.float32

    @property
    def is_wide(self) -> bool:
        """Whether weights stay as they are built."""
        return self.weights == torch.float32

    def stored(self, module: nn.Module) -> int:
        """Return the bytes of a module's parameters and buffers as Lightning keeps them."""
        tensors = [*module.parameters(), *module.buffers()]
        if self.is_wide:
            return tensor_bytes(tensors)
        narrow = self.weights.itemsize
        sizes = (narrow if each.is_floating_point() else each.itemsize for each in tensors)
        return sum(each.numel() * size for each, size in zip(tensors, sizes, strict=True))

    def context(self) -> contextlib.AbstractContextManager[object]:
        """Return the autocast that Lightning runs a step in; like Lightning's, it keeps cast weights."""
        if self.name.endswith("mixed"):
            return torch.autocast("cpu", dtype=self.half)
        return contextlib.nullcontext()


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Make every tensor inside one without memory."""
    rope_table.cache_clear()  # memoised tables of this kind and real ones must not meet
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        rope_table.cache_clear()


Graph = Literal["none", "weights", "inputs"]
"""What a pass keeps for a backward pass: nothing, what weights need, or what its latents alone need."""


class PassShape(NamedTuple):
    """The sizes of one pass of a backbone.

    Args:
        latents_BFCHW: Shape of the frames it computes.
        context_tokens: Tokens of the window it reads.
        text_tokens: Tokens of the prompts as they are handed in.
        masked: Whether it runs under a frame mask (parallel causal training).
        clean_context: Whether clean frames are put before the noisy ones (teacher forcing).
    """

    latents_BFCHW: tuple[int, int, int, int, int]
    context_tokens: int = 0
    text_tokens: int = 1
    masked: bool = False
    clean_context: bool = False


class PassMemory(NamedTuple):
    """Bytes that passes of one shape take, besides weights and window.

    Args:
        once: Held once, whatever the number of passes: text keys and values with their graph, and what
            autocast keeps of the weights.
        each: Held by the graph of each pass.
        work: What comes and goes on top, forward or backward.
    """

    once: int
    each: int
    work: int


def pass_memory(
    backbone: Backbone, shape: PassShape, precision: Precision, graph: Graph
) -> PassMemory:
    """Return what passes take. The backbone may be on the meta device; it is not changed.

    With a graph, gradients are taken as allocated before. Attention is as PyTorch's fused kernels are: the
    matrix of scores is never kept.
    """
    full = backbone.num_layers
    counts = (FEW, MORE) if full > MORE and _blocks(backbone) is not None else (full,)
    found = []
    for count in counts:
        short = shortened(backbone, count, precision)
        with rehearsal():
            found.append(_run(on_fakes(short), shape, precision, graph))
    if len(found) == 1:
        return found[0]
    return PassMemory(
        *(a + (b - a) * (full - FEW) // (MORE - FEW) for a, b in zip(*found, strict=True))
    )


def _run(backbone: Backbone, shape: PassShape, precision: Precision, graph: Graph) -> PassMemory:
    """Make two passes, and with a graph go back through both."""
    rows, frames = shape.latents_BFCHW[:2]
    text_BSD = torch.empty(rows, shape.text_tokens, backbone.text_dim)
    latents, timestep = torch.empty(shape.latents_BFCHW), torch.empty(rows, frames)
    latents.requires_grad_(graph == "inputs")
    seen = 2 * frames if shape.clean_context else frames
    mask = torch.ones(seen, seen, dtype=torch.bool) if shape.masked else None
    clean = torch.empty(shape.latents_BFCHW) if shape.clean_context else None
    places = tuple(float(index) for index in range(frames))
    kept = None if graph != "none" else _window(backbone, rows, shape, precision, room=True)

    def once(text: TextKV) -> Tensor:
        # In training every chunk joins a window of its own, which recomputed activations keep.
        window = kept if graph == "none" else _window(backbone, rows, shape, precision, room=False)
        out: Tensor = backbone(
            latents,
            timestep_BF=timestep,
            text=text,
            positions=LivePositions(places, places),
            window=window,
            mask_FF=mask,
            clean_latents_BFCHW=clean,
        ).velocity_BFCHW
        return out

    with precision.context(), torch.set_grad_enabled(graph != "none"), LiveBytes() as live:
        with torch.set_grad_enabled(graph == "weights"):
            text = backbone.text_kv(text_BSD)
        first = once(text)
        if graph == "none":
            return PassMemory(live.now, 0, live.peak - live.now)
        held = live.now
        second = once(text)
        each = live.now - held
        before, forward = live.now, live.peak - live.now
        live.mark()
        total = first.float().sum() + second.float().sum()
        if graph == "inputs":
            torch.autograd.grad(total, latents)
        elif total.requires_grad:
            total.backward()
        return PassMemory(held - each, each, max(0, forward, live.peak - before))


def _window(
    backbone: Backbone, rows: int, shape: PassShape, precision: Precision, *, room: bool
) -> Window | None:
    """Return context of that many tokens, with or without room for the live frames behind it."""
    if not shape.context_tokens:
        return None
    tokens = backbone.tokens_per_frame(*shape.latents_BFCHW[-2:]) * shape.latents_BFCHW[1]
    total = shape.context_tokens + (tokens if room else 0)
    size = (backbone.num_layers, rows, total, backbone.num_heads, backbone.head_dim)
    key, value = (torch.empty(*size, dtype=precision.weights) for _ in range(2))
    return Window(key, value, shape.context_tokens, has_room=room)


def shortened(backbone: Backbone, layers: int, precision: Precision) -> Backbone:
    """Return a copy of so many blocks on the meta device."""
    blocks = _blocks(backbone)
    memo: dict[int, object] = {}
    if blocks is not None:
        memo[id(blocks)] = nn.ModuleList(copy.deepcopy(block) for block in list(blocks)[:layers])
    short: Backbone = copy.deepcopy(backbone, memo)
    for module in short.modules():
        if isinstance(module, Backbone):
            module.num_layers = layers
    # Lightning casts for "true" precisions alone; a teacher may be narrower than that all the same.
    return short.to(device="meta", dtype=None if precision.is_wide else precision.weights)


def on_fakes(backbone: Backbone) -> Backbone:
    """Let weights on the meta device pass as weights on the CPU; those that learn get gradients."""
    backbone.to_empty(device="cpu")
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    return backbone


def _blocks(backbone: Backbone) -> nn.ModuleList | None:
    """Return the list of a backbone's blocks, if it has just one list of that length."""
    found = [
        module
        for module in backbone.modules()
        if isinstance(module, nn.ModuleList) and len(module) == backbone.num_layers
    ]
    return found[0] if len(found) == 1 else None
