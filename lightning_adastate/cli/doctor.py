"""doctor: what this machine has, which paths a recipe takes on it and why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.doctor.kernels import try_kernels
from lightning_adastate.doctor.machine import Machine
from lightning_adastate.doctor.report import describe
from lightning_adastate.recipes.parser import SentenceParser

DESCRIPTION = """Print versions, the card and its free memory, and every attention kernel's difference from PyTorch's in
float64 on a small case. With `--config` also which kernel, compiled, recorded and codec path that recipe takes to
stream here, and why; every option of a recipe is accepted, and no weights are read. The exit code is 1 if a kernel
gives wrong numbers."""

PROGRAM = "lightning_adastate doctor"


def doctor_parser() -> SentenceParser:
    """Return the parser of ``doctor`` without a recipe; Lightning is imported only for one."""
    parser = SentenceParser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("-c", "--config", type=str | None, help="A recipe: wan1.3b/adastate.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, look, and print; the exit code is 1 if a kernel gives wrong numbers."""
    given = list(args or [])
    recipe = None
    if any(each.split("=")[0] in ("-c", "--config") for each in given):
        from lightning_adastate.doctor.recipe import recipe_paths
        from lightning_adastate.recipes.loading import import_families, recipe_parser

        import_families()
        parser = recipe_parser(prog=PROGRAM, description=DESCRIPTION)
        asked = parser.parse_args(given)
        if asked.get("model") is None:
            raise ValueError("`doctor --config` needs a recipe, as wan1.3b/adastate")
        machine = Machine.here()
        speed = (asked.generation or {}).get("speed", "auto")
        recipe = recipe_paths(parser, asked, machine.facts, speed)
    else:
        doctor_parser().parse_args(given)
        machine = Machine.here()
    kernels = try_kernels(machine.device)
    print("\n".join(describe(machine, kernels, recipe)))
    return int(any(one.is_wrong for one in kernels))
