"""Which fast paths a stream takes: decided from what is known of the device and what the recipe says."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch

from lightning_adastate.backbones import Backbone
from lightning_adastate.streaming.pipeline import PixelStreaming

Speed = Literal["auto", "plain"]
Wish = Literal["auto", "never", "steady"]
Decode = Literal["auto", "in_turn", "overlapped"]

TRITON_CAPABILITY = (7, 0)
"""Oldest cards that torch.compile makes kernels for."""

BLOCK_LAUNCH_SECONDS = 4e-4
"""What launching a transformer block costs a processor: some 60 kernels of 5 microseconds, and Python. By arithmetic,
not measured."""

RATES = {7: 8e13, 8: 2e14, 9: 6e14, 10: 1.2e15, 12: 3e14}
"""Operations per second in half precision that matrix products reach, by the first number of a card's capability. By
arithmetic from data sheets, not measured."""


@dataclass(frozen=True)
class DeviceFacts:
    """What is known of the device that a stream runs on.

    Args:
        kind: ``cpu``, ``cuda``, ...
        name: Of the card.
        capability: Of a CUDA card, as (9, 0).
        has_triton: Whether torch.compile can make kernels for a card.
        autocast: Whether the precision is a mixed one.
    """

    kind: str
    name: str = ""
    capability: tuple[int, int] | None = None
    has_triton: bool = False
    autocast: bool = False

    @classmethod
    def of(cls, device: torch.device) -> DeviceFacts:
        """Ask the device, under the precision in force."""
        cuda = device.type == "cuda"
        return cls(
            kind=device.type,
            name=torch.cuda.get_device_name(device) if cuda else "",
            capability=torch.cuda.get_device_capability(device) if cuda else None,
            has_triton=importlib.util.find_spec("triton") is not None,
            autocast=torch.is_autocast_enabled(device.type),
        )


@dataclass(frozen=True)
class Wishes:
    """What a recipe says of its fast paths, and how much work a block is.

    Args:
        compile_blocks: The backbone's own argument.
        cuda_graphs: The backbone's own argument.
        compile_passes: The codec's own argument; ``never`` where it has none.
        decode: When chunks are decoded.
        block_operations: Of one transformer block in one pass.
    """

    compile_blocks: Wish = "auto"
    cuda_graphs: Wish = "auto"
    compile_passes: Wish = "auto"
    decode: Decode = "auto"
    block_operations: float = 0.0

    @classmethod
    def of(cls, module: PixelStreaming, decode: Decode = "auto") -> Wishes:
        """Read them off what streams."""
        backbone = module.streamer.backbone
        inner = [part for part in backbone.modules() if isinstance(part, Backbone)]
        blocks = [part.compile_blocks for part in inner]
        latent = module.codec.latent_shape(*module.frame_size)[1:]
        tokens = module.streamer.schedule.chunk_frames * backbone.tokens_per_frame(*latent)
        weights = sum(weight.numel() for weight in backbone.parameters()) / backbone.num_layers
        return cls(
            compile_blocks=next((wish for wish in blocks if wish != "never"), "never"),
            cuda_graphs=inner[-1].cuda_graphs,
            compile_passes=module.codec.compile_passes,
            decode=decode,
            block_operations=2.0 * weights * tokens,
        )


class Choice(NamedTuple):
    """Whether a path is taken, and why."""

    taken: bool
    why: str


@dataclass(frozen=True)
class SpeedPlan:
    """The fast paths of one stream.

    Args:
        compile_blocks: Transformer blocks run compiled once the window is full.
        cuda_graphs: Passes of a full window are recorded and replayed.
        compile_passes: The codec runs compiled behind a stream's first chunk.
        fast_attention: The attention kernel that is best for the card, not PyTorch's default.
        overlapped: A chunk is decoded and written while the next one is denoised.
        noise_ahead: The next chunk's noise is drawn in a thread, into pinned memory on a card.
        bytes_out: Pixels become bytes on the device, and only those are copied.
    """

    compile_blocks: Choice
    cuda_graphs: Choice
    compile_passes: Choice
    fast_attention: Choice
    overlapped: Choice
    noise_ahead: Choice
    bytes_out: Choice

    @classmethod
    def decide(cls, speed: Speed, facts: DeviceFacts, wishes: Wishes) -> SpeedPlan:
        """Decide every path.

        Args:
            speed: ``auto`` takes what the device can and the recipe does not forbid; ``plain`` takes nothing.
            facts: What is known of the device.
            wishes: What the recipe says.
        """
        if speed == "plain":
            return cls(*[Choice(taken=False, why="the speed is plain")] * len(fields(cls)))
        card = facts.kind == "cuda"
        beside = Choice(card, "the card works meanwhile" if card else _eager(facts))
        return cls(
            compile_blocks=_asked(wishes.compile_blocks) or _compiles(facts),
            cuda_graphs=_asked(wishes.cuda_graphs) or _records(facts, wishes.block_operations),
            compile_passes=_asked(wishes.compile_passes) or _compiles(facts),
            fast_attention=Choice(taken=True, why="the recipe's `attention`"),
            overlapped=beside
            if wishes.decode == "auto"
            else Choice(wishes.decode == "overlapped", f"asked for: {wishes.decode}"),
            noise_ahead=beside,
            bytes_out=Choice(card, "a quarter of the bytes" if card else _eager(facts)),
        )

    def apply(self, module: PixelStreaming) -> None:
        """Set a module's switches accordingly. Weights and saved states stay what they are."""
        steady: dict[bool, Wish] = {True: "steady", False: "never"}
        for part in module.streamer.backbone.modules():
            if isinstance(part, Backbone):
                part.compile_blocks = steady[self.compile_blocks.taken]
                part.cuda_graphs = steady[self.cuda_graphs.taken]
                if not self.fast_attention.taken:
                    part.use_kernels(("sdpa",))
        module.codec.compile_passes = steady[self.compile_passes.taken]
        module.streamer.draws_ahead = self.noise_ahead.taken

    def lines(self) -> list[str]:
        """Return every path, whether it is taken, and why."""
        return [
            f"{name.replace('_', ' ')}: {'yes' if choice.taken else 'no'} ({choice.why})"
            for name, choice in self.choices().items()
        ]

    def sentence(self) -> str:
        """Return in one line what is taken, and what is not and why."""
        taken = [name for name, choice in self.choices().items() if choice.taken]
        left = [f"{name} ({one.why})" for name, one in self.choices().items() if not one.taken]
        parts = [f"fast paths: {', '.join(taken) or 'none'}"]
        parts += [f"not taken: {', '.join(left)}"] if left else []
        return "; ".join(parts)

    def choices(self) -> dict[str, Choice]:
        """Return all choices by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _eager(facts: DeviceFacts) -> str:
    return f"nothing is gained on {facts.kind}"


def _asked(wish: Wish) -> Choice | None:
    """Return what the recipe decides itself."""
    return None if wish == "auto" else Choice(wish == "steady", f"the recipe says {wish}")


def _compiles(facts: DeviceFacts) -> Choice:
    """Decide whether torch.compile pays."""
    if facts.kind != "cuda":
        return Choice(taken=False, why=f"{facts.kind} stays eager")
    assert facts.capability is not None
    if facts.capability < TRITON_CAPABILITY:
        have, need = (".".join(map(str, each)) for each in (facts.capability, TRITON_CAPABILITY))
        return Choice(taken=False, why=f"capability {have} is below {need}, which Triton needs")
    if not facts.has_triton:
        return Choice(taken=False, why="Triton is not installed: pip install triton")
    return Choice(taken=True, why="the card and Triton are there")


def _records(facts: DeviceFacts, block_operations: float) -> Choice:
    """Decide whether recording passes pays: where launching takes longer than the work."""
    if facts.kind != "cuda":
        return Choice(taken=False, why=f"{facts.kind} has no CUDA graphs")
    if facts.autocast:
        why = "autocast keeps cast weights that a recording would outlive: use the precision bf16-true"
        return Choice(taken=False, why=why)
    assert facts.capability is not None
    seconds = block_operations / RATES.get(facts.capability[0], max(RATES.values()))
    shown = f"a block works {1e3 * seconds:.2f} ms, its launches take {1e3 * BLOCK_LAUNCH_SECONDS:.2f} ms (estimated)"
    return Choice(seconds < BLOCK_LAUNCH_SECONDS, shown)
