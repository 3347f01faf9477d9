"""What was found as lines of text, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_adastate.backbones.attention import CUDNN_FIRST, HOPPER, torch_version
from lightning_adastate.doctor.kernels import KernelReport
from lightning_adastate.doctor.machine import Machine

if TYPE_CHECKING:
    from lightning_adastate.doctor.recipe import RecipePaths

GB = 1e9


def describe(
    machine: Machine, kernels: Sequence[KernelReport], recipe: RecipePaths | None
) -> list[str]:
    """Return everything that was found, and what to do, one line each."""
    facts = machine.facts
    card = (
        f"{facts.name}, capability {'.'.join(map(str, facts.capability))}"
        if facts.capability
        else "none"
    )
    lines = ["versions"]
    lines += [f"  {name}: {found or 'not installed'}" for name, found in machine.versions.items()]
    lines += [f"  PyTorch's CUDA: {machine.cuda_build or 'none (a build for CPUs)'}"]
    lines += [f"device: {facts.kind}", f"  card: {card}"]
    if machine.free_bytes is not None and machine.total_bytes is not None:
        free, total = machine.free_bytes / GB, machine.total_bytes / GB
        lines.append(f"  memory: {free:.1f} of {total:.1f} GB are free")
    lines.append("attention kernels, and their largest difference from PyTorch's in float64")
    lines += [f"  {_kernel_line(one)}" for one in kernels]
    if recipe is not None:
        lines += [
            "the recipe",
            f"  precision: {recipe.precision}",
            f"  attention: {recipe.kernel}",
        ]
        lines += [f"  codec: {recipe.codec}"]
        lines += [f"  {line}" for line in recipe.plan.lines()]
    lines.append("what to do")
    return lines + [f"  {line}" for line in remedies(machine, kernels, recipe) or ["nothing"]]


def remedies(
    machine: Machine, kernels: Sequence[KernelReport], recipe: RecipePaths | None
) -> list[str]:
    """Return what would make streams right or fast here, the most important first."""
    facts, found = machine.facts, []
    for one in kernels:
        if one.is_wrong:
            found.append(
                f"do not use `attention: {one.name}`: {_kernel_line(one)}; set `attention: sdpa`"
            )
    if facts.kind != "cuda" and machine.cuda_build is None:
        found.append(
            "this PyTorch is built for CPUs, streams run eager; on a machine with a card install a CUDA build"
        )
    elif facts.kind != "cuda":
        found.append("no CUDA device is seen: look at nvidia-smi and CUDA_VISIBLE_DEVICES")
    elif not facts.has_triton:
        found.append("nothing can be compiled: pip install triton")
    if facts.capability == HOPPER and torch_version() < CUDNN_FIRST:
        newest = ".".join(map(str, CUDNN_FIRST))
        found.append(f"install torch {newest} or newer: its attention takes cuDNN on this card")
    if recipe is not None and recipe.precision.endswith("-mixed") and facts.kind == "cuda":
        found.append(
            f"to stream, give `--trainer.precision bf16-true`: with {recipe.precision} weights are cast in every pass, and "
            "passes cannot be recorded"
        )
    if (
        recipe is not None
        and recipe.codec.startswith("WanCodec")
        and not machine.versions.get("diffusers")
    ):
        found.append("WanCodec needs diffusers: pip install 'lightning-adastate[wan]'")
    return found


def _kernel_line(one: KernelReport) -> str:
    if one.missing is not None:
        return f"{one.name}: not here ({one.missing})"
    if one.failure is not None:
        return f"{one.name}: fails ({one.failure})"
    wrong = f", more than the {one.tolerance:.0e} of rounding" if one.is_wrong else ""
    return f"{one.name}: {one.difference:.1e}{wrong}"
