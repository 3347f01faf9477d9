"""A streamer from a configuration of configs/replay: components alone, without codec and text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.streaming import Streamer
from lightning_adastate.streaming.commit import KVGradient

DESCRIPTION = """Replay recorded noise and draws and compare the latents and caches with the record.

The case is a safetensors file with `noise` [B, F, C, H, W], `text` or `text.0`, `text.1`, ...
[B, S, D], every draw in order as `drawn.000`, ... [n, C, H, W] (or `state_noise`, `renoise_content`,
`renoise_state` for a hidden state), and `latents` [B, F, C, H, W]; optional `cache0.chunkNN.k` and
`.v` are compared with layer 0 after that chunk. Given frames are `initial_latent` [B, K, C, H, W]; `noise`
is then that of the others, and `latents` are both. Gradients are `loss`, `loss_weight` and `grad.NAME`: the loss
is mean((latents * loss_weight)^2), the differences are relative. `<case>.layout.json` beside it says where prompts
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
    parser.add_argument(
        "--exit_step",
        type=int | None,
        help="Training rollouts: the denoise pass at which every chunk was left; default the last.",
    )
    parser.add_argument(
        "--kv_gradient",
        type=KVGradient,
        default="detach",
        help="Training rollouts: what cached keys and values passed back; public code `straight_through`.",
    )
    return parser
