"""What generating and training have in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lightning_adastate.backbones import Backbone
from lightning_adastate.memory.moments import Moments, moments_of
from lightning_adastate.memory.parts import (
    Line,
    Phase,
    Remedy,
    Sizes,
    decoding,
    text_dtype,
    text_memory,
)
from lightning_adastate.memory.passes import (
    PassShape,
    Precision,
    adamw_bytes,
    pass_memory,
    tensor_bytes,
    trained_numbers,
)
from lightning_adastate.memory.stream import stream_memory
from lightning_adastate.training.base import StreamModule

FEWER = (2, 4, 8)
"""Numbers of processes that are offered as a remedy."""


def generate_phase(module: StreamModule, sizes: Sizes, precision: Precision) -> Phase:
    """Return what streaming takes."""
    streamer, tokens = module.streamer, module.text_encoder.max_tokens
    stream = stream_memory(
        streamer,
        precision,
        rows=sizes.streams,
        latent_shape=sizes.latent_shape,
        text_tokens=tokens,
        text_dtype=text_dtype(module.text_encoder),
    )
    passes = [each for chunk in stream.chunks for each in chunk]
    widest = max(passes, key=lambda each: (each.live_frames, each.context_tokens))
    latents = (sizes.streams, widest.live_frames, *sizes.latent_shape)
    shape = PassShape(latents, max(each.context_tokens for each in passes), tokens)
    once = pass_memory(streamer.backbone, shape, precision, "none")
    codec = decoding(
        module.codec, precision, sizes.latent_shape, sizes.streams, streamer.schedule.chunk_frames
    )
    weights, text = precision.stored(streamer), text_memory(module.text_encoder, precision)
    cast = max(0, once.once - stream.text) if precision.name.endswith("mixed") else 0
    resident = (
        Line("generator", weights, "weights"),
        *([Line("cast weights", cast, "autocast keeps them")] if cast else []),
        Line("codec", precision.stored(module.codec), "weights"),
        Line("codec's memory", codec.held, "of the stream"),
        *text.lines(),
        Line("window", stream.window, "keys and values"),
        Line("anchor", stream.anchor, "what the window does not hold"),
        Line("text", stream.text + stream.latents, "keys and values, embeddings, latents"),
        Line("buffers", stream.buffers, "rotated window, room for live frames"),
    )
    moments = (
        Line("a pass", once.work + stream.work, "forward, and closing the chunk"),
        Line("decoding", codec.work),
    )
    saves = weights + cast - replace(precision, name="bf16-true").stored(streamer)
    saves += (stream.window + stream.anchor + stream.buffers) // 2
    remedies = (Remedy("--precision bf16-true", saves),) if precision.is_wide else ()
    return Phase("generate", resident, moments, remedies)


def fit_phase(module: StreamModule, sizes: Sizes, precision: Precision) -> Phase:
    """Return what a training step takes, once the optimiser has stepped.

    Raises:
        ValueError: If the stage is not known, or its teacher is offloaded and sharded.
    """
    share = sizes.processes
    there = networks_of(module)
    trained = {name: network for name, network in there.items() if trained_numbers(network)}
    gradients = {
        name: trained_numbers(network) * precision.weights.itemsize // share
        for name, network in trained.items()
    }
    # One batch per step: a network's gradients are gone before the next one has its own.
    waits = getattr(module, "accumulate", 1) > 1 or len(trained) == 1
    away, text = is_away(module), text_memory(module.text_encoder, precision)
    if away and share > 1:
        raise ValueError(
            "FSDP shards the teacher over the processes: `teacher_offload` must be false, got true"
        )
    resident = (
        *(
            Line(name, precision.stored(network) // share, "weights")
            for name, network in there.items()
            if not (away and name == "teacher")
        ),
        *(
            Line(
                f"{name}'s optimiser",
                adamw_bytes(network, precision) // share,
                "first and second moments",
            )
            for name, network in trained.items()
        ),
        Line("codec", precision.stored(module.codec), "weights"),
        *text.lines(),
        *(Line(f"{name}'s gradients", size) for name, size in gradients.items() if waits),
        *gathered(there, precision, share),
    )
    moments = moments_of(module, sizes, precision, {} if waits else gradients)
    # AdamW's `foreach` on CUDA makes a root of the second mean for all weights at once.
    copies = max(gradients.values(), default=0)
    note = "a root of all second moments" if waits else "gradients, a root of all second moments"
    stepping = Line("optimiser step", copies if waits else 2 * copies, note)
    always = (stepping, *([Line("encoding a new prompt", text.comes)] if text.comes else []))
    phase = Phase("fit", resident, (*moments.lines, *always))
    if away:
        phase = replace(phase, moments=with_teacher(phase, tensor_bytes_of(there["teacher"])))
    return replace(phase, remedies=tuple(remedies_of(module, phase, moments, always, sizes)))


def networks_of(module: StreamModule) -> dict[str, nn.Module]:
    """Return the networks that a stage has in training, by what they are called."""
    found = {
        "generator": module.generator,
        "average": module.generator_ema,
        "teacher": getattr(module, "teacher", None),
        "critic": getattr(module, "critic", None),
    }
    return {name: network for name, network in found.items() if isinstance(network, nn.Module)}


def is_away(module: StreamModule) -> bool:
    """Whether the teacher is on the device only while it is asked."""
    return bool(getattr(module, "teacher_offload", False))


def gathered(networks: dict[str, nn.Module], precision: Precision, share: int) -> Sequence[Line]:
    """Return what FSDP has together of a sharded network: the block at work, and the next one."""
    if share == 1:
        return []
    blocks = [
        precision.stored(part) // part.num_layers
        for network in networks.values()
        for part in network.modules()
        if isinstance(part, Backbone)
    ]
    return [Line("gathered blocks", 2 * max(blocks), "the one at work and the next")]


def tensor_bytes_of(network: nn.Module) -> int:
    """Return the bytes of a network as it is built: Lightning does not reach what is away."""
    return tensor_bytes([*network.parameters(), *network.buffers()])


def with_teacher(phase: Phase, size: int) -> tuple[Line, ...]:
    """Return the moments with the teacher's weights where it is asked."""
    return tuple(
        line._replace(size=line.size + size, note=f"{line.note}, teacher's weights")
        if line.part == "scores"
        else line
        for line in phase.moments
    )


def remedies_of(
    module: StreamModule, phase: Phase, moments: Moments, always: Sequence[Line], sizes: Sizes
) -> Sequence[Remedy]:
    """Return what would make training smaller; each saves what it says if it is used alone."""
    networks = networks_of(module)
    others = {}
    if moments.by_chunks is not None:
        others["--model.backward chunks"] = replace(phase, moments=(*moments.by_chunks, *always))
    if "average" in networks:
        others["--model.ema_decay null"] = phase.with_part("average", 0)
    if hasattr(module, "teacher_offload") and not is_away(module):
        teacher = phase.size_of("teacher")
        if phase.size_of("teacher") * sizes.processes == 4 * numbers_of(networks["teacher"]):
            narrow = phase.with_part("teacher", teacher // 2)
            others["--model.teacher_dtype bfloat16"] = narrow
        if sizes.processes == 1:
            gone = phase.with_part("teacher", 0)
            others["--model.teacher_offload true"] = replace(
                gone, moments=with_teacher(gone, teacher)
            )
    found = [Remedy(option, phase.total - other.total) for option, other in others.items()]
    if sizes.processes == 1 and not is_away(module):
        owned = [line for line in phase.resident if line.part.partition("'")[0] in networks]
        states = sum(line.size for line in owned)
        found += [Remedy(f"--shape.processes {n} (FSDP)", states * (n - 1) // n) for n in FEWER]
    return found


def numbers_of(network: nn.Module) -> int:
    """Count a network's parameters and buffers."""
    return sum(each.numel() for each in (*network.parameters(), *network.buffers()))
