"""What a rehearsal says of a verb: what is always there, what comes and goes, and each process's share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from lightning_adastate.backbones import Backbone
from lightning_adastate.memory.live import tensor_bytes
from lightning_adastate.memory.watch import CALLED, OPTIMISER, Record, networks_of


class Line(NamedTuple):
    """A part, its bytes, and what is to be known about it."""

    part: str
    size: int
    note: str = ""


class Remedy(NamedTuple):
    """An option that makes a phase smaller, and by how many bytes if it is used alone."""

    option: str
    saves: int


@dataclass(frozen=True)
class Phase:
    """A verb's memory.

    Args:
        name: The verb.
        resident: What is there all the time.
        moments: What is there for a while; no two at a time.
        remedies: What would help, where it was asked for.
    """

    name: str
    resident: tuple[Line, ...]
    moments: tuple[Line, ...]
    remedies: tuple[Remedy, ...] = ()

    @property
    def largest(self) -> Line:
        """Return the moment that takes most."""
        return max(self.moments, key=lambda line: line.size)

    @property
    def total(self) -> int:
        """Return the bytes alive at most."""
        return sum(line.size for line in self.resident) + self.largest.size

    def size_of(self, part: str) -> int:
        """Return the bytes of a part, 0 if it is not there."""
        return sum(line.size for line in (*self.resident, *self.moments) if line.part == part)


def phase_of(name: str, module: nn.Module, record: Record, processes: int = 1) -> Phase:
    """Return a verb's memory in each of some processes that share networks (FSDP).

    Args:
        name: The verb.
        module: As built, whole.
        record: Of its rehearsal.
        processes: Those that share weights, gradients and optimiser states; 1 shares nothing.

    Raises:
        ValueError: If a network waits elsewhere and is to be shared.
    """
    always = sum(record.resident.values())
    lines, sizes = [], dict[str, int]()
    shared = shared_parts(module) if processes > 1 else set()
    for part, size in record.resident.items():
        own = part.removesuffix("'s optimiser")
        note = "weights" if own == part else "states"
        note = "keys and values, anchor, buffers, codec's memory" if part == "stream" else note
        lines.append(Line(part, size // processes if own in shared else size, note))
    for moment in record.moments:
        beside = moment.size - always - moment.gradients
        if moment.doing == OPTIMISER:
            beside //= processes
        works = f"{moment.doing} at work" if moment.doing in record.resident else moment.doing
        most = beside + moment.gradients // processes
        sizes[works] = max(sizes.get(works, 0), most)
    if processes > 1:
        most = max(block_bytes(network) for network in networks_of(module).values())
        lines.append(Line("gathered blocks", 2 * most, "the one at work and the next"))
    return Phase(name, tuple(lines), tuple(Line(part, size) for part, size in sizes.items()))


def shared_parts(module: nn.Module) -> set[str]:
    """Return the children that have networks.

    Raises:
        ValueError: If a network is in none of them.
    """
    found = {
        name: [id(part) for part in child.modules() if isinstance(part, Backbone)]
        for name, child in module.named_children()
    }
    inside = {one for networks in found.values() for one in networks}
    for name, network in networks_of(module).items():
        if id(network) not in inside:
            raise ValueError(
                f"FSDP shards the {name} over the processes: `{name}_offload` must be false, got true"
            )
    return {CALLED.get(name, name) for name, networks in found.items() if networks}


def block_bytes(network: Backbone) -> int:
    """Return the bytes of one block."""
    return tensor_bytes([*network.parameters(), *network.buffers()]) // network.num_layers


def with_remedies(phase: Phase, others: dict[str, Phase]) -> Phase:
    """Return a phase with what the same one takes under other options."""
    found = [Remedy(option, phase.total - other.total) for option, other in others.items()]
    return replace(phase, remedies=tuple(each for each in found if each.saves > 0))
