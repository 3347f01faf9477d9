"""A streamer from a configuration of configs/replay: components alone, without codec and text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.streaming import Streamer

DESCRIPTION = """Replay recorded noise and draws and compare the latents and caches with the record.

The case is a safetensors file with `noise` [B, F, C, H, W], `text` or `text.0`, `text.1`, ...
[B, S, D], every draw in order as `drawn.000`, ... [n, C, H, W] (or `state_noise`, `renoise_content`,
`renoise_state` for a hidden state), and `latents` [B, F, C, H, W]; optional `cache0.chunkNN.k` and
`.v` are compared with layer 0 after that chunk. `<case>.layout.json` beside it says where prompts
switch, caches are flushed or re-encoded, and positions are cut. Exit code 0 only within --tolerance."""


def load_streamer(config: str, overrides: Sequence[str] = ()) -> Streamer:
    """Build the components that replay a recorded case; ``run_replay`` takes them.

    Args:
        config: A file, or the name of a shipped one (``replay/longlive``).
        overrides: As on the command line.

    Raises:
        ValueError: If there is no such configuration, or it does not fit.
    """
    parser = replay_parser(exit_on_error=False)
    arguments = recipe_arguments(config, overrides)
    with in_sentences(parser):
        streamer: Streamer = parser.instantiate_classes(parser.parse_args(arguments)).model
        return streamer


def replay_parser(*, exit_on_error: bool = True) -> SentenceParser:
    """Return the parser of ``replay``: the streamer's components under ``--model``, and the files."""
    parser = SentenceParser(
        prog="lightning_adastate replay", description=DESCRIPTION, exit_on_error=exit_on_error
    )
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
