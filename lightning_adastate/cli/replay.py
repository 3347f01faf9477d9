"""replay: run a recorded case of another implementation through our loop, and compare."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lightning_adastate.analysis.replay import run_replay
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.streaming.streamer import Streamer

DESCRIPTION = """Replay recorded noise and draws and compare the latents and caches with the record.

The case is a safetensors file with `noise` [B, F, C, H, W], `text` or `text.0`, `text.1`, ...
[B, S, D], every draw in order as `drawn.000`, ... [n, C, H, W] (or `state_noise`, `renoise_content`,
`renoise_state` for a hidden state), and `latents` [B, F, C, H, W]; optional `cache0.chunkNN.k` and
`.v` are compared with layer 0 after that chunk. `<case>.layout.json` beside it says where prompts
switch, caches are flushed or re-encoded, and positions are cut. Exit code 0 only within --tolerance."""


def replay_parser() -> ArgumentParser:
    """Return the parser of ``replay``: the streamer's components under ``--model``, and the files."""
    parser = SentenceParser(prog="lightning_adastate replay", description=DESCRIPTION)
    parser.add_argument(
        "-c", "--config", action="config", help="A YAML file, see configs/replay/."
    )
    parser.add_class_arguments(Streamer, "model", sub_configs=True)
    parser.add_argument("--weights", type=str, help="Backbone weights: .safetensors or .ckpt.")
    parser.add_argument("--case", type=str, help="The recorded case, .safetensors.")
    parser.add_argument("--layout", type=str | None, help="Layout; default <case>.layout.json.")
    parser.add_argument(
        "--tolerance", type=float, default=1e-5, help="Largest difference allowed."
    )
    return parser


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
    )
