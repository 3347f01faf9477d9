"""replay: run a recorded case of another implementation through our loop, and compare."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.analysis.replay import run_replay
from lightning_adastate.recipes.replay import replay_parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, build the components, replay."""
    parser = replay_parser()
    config = parser.parse_args(args)
    for name in ("weights", "case"):
        if config[name] is None:
            parser.error(f"--{name} is required")
    built = parser.instantiate_classes(config)
    return run_replay(
        built.model,
        weights=config.weights,
        case=config.case,
        layout=config.layout,
        tolerance=config.tolerance,
        exit_step=config.exit_step,
        kv_gradient=config.kv_gradient,
    )
