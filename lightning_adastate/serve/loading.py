"""What `serve` streams, from a configuration: a comparison with its world and arms, or any recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml
from jsonargparse import Namespace

from lightning_adastate.anchors import Anchor
from lightning_adastate.evaluation.arms import Variation
from lightning_adastate.evaluation.comparison import with_variation
from lightning_adastate.recipes.comparison import build_comparison, comparison_parser
from lightning_adastate.recipes.loading import build_streaming, import_families, recipe_parser
from lightning_adastate.recipes.names import CONFIG_OPTIONS, find_config
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.serve.opening import Opening, PromptOpening, WorldOpening
from lightning_adastate.serve.options import Serving
from lightning_adastate.serve.session import LiveSession
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.training.base import StreamModule
from lightning_adastate.weights.placement import named_device

PROG = "lightning_adastate serve"
DESCRIPTION = """A page that streams while it generates: prompts, anchors, flushes and cuts while it runs, two anchors
side by side on the same noise, live plots. The configuration is a comparison (toy/memory: its world, and its anchors
to choose from) or any recipe."""

FIRST_PROMPT = "drifting slowly west"


def serve_parser(args: Sequence[str]) -> SentenceParser:
    """Return the parser of ``serve`` for the kind of configuration that these arguments name."""
    import_families()
    if names_recipe(args):
        parser = recipe_parser(prog=PROG, description=DESCRIPTION)
        parser.add_argument(
            "--anchors", type=dict[str, Anchor], help="Anchors to choose from, by name."
        )
        parser.add_argument("--weights", type=str | None, help="Weights instead of the recipe's.")
    else:
        parser = comparison_parser(prog=PROG, description=DESCRIPTION)
    parser.add_class_arguments(Serving, None, instantiate=False, skip={"seed"})
    if names_recipe(args):
        parser.add_argument("--seed", type=int, default=0, help="Seed of the noise.")
    return parser


def names_recipe(args: Sequence[str]) -> bool:
    """Whether the first configuration among the arguments is a recipe, whose model has a class; else a comparison."""
    for arg, coming in zip(args, [*args[1:], ""], strict=True):
        option, equals, value = arg.partition("=")
        if option in CONFIG_OPTIONS:
            found = find_config(value if equals else coming)
            read = yaml.safe_load(found.read_text()) if found is not None else None
            model = read.get("model") if isinstance(read, Mapping) else None
            return isinstance(model, Mapping) and "class_path" in model
    return False


def options_of(parser: SentenceParser, parsed: Namespace) -> Serving:
    """Return the options that were parsed; one that is out of range is the parser's error."""
    names = Serving.__init__.__kwdefaults__ or {}
    try:
        return Serving(**{name: parsed[name] for name in names})
    except ValueError as error:
        parser.error(str(error))


def build_session(parser: SentenceParser, parsed: Namespace, serving: Serving) -> LiveSession:
    """Build what is served.

    Raises:
        ValueError: If the configuration does not fit, or has no such anchor.
    """
    device = named_device(serving.device)
    if parsed.get("world") is not None:
        comparison = build_comparison(parser, parsed)
        module, anchors = comparison.module.eval(), anchors_of(comparison.arms)
        opening: Opening = WorldOpening(
            comparison.world, serving.prompt, num_given=comparison.num_given
        )
    else:
        if parsed.model is None:
            parser.error("the following arguments are required: model")
        module = build_streaming(parser, parsed.model, parsed.weights)
        named = parser.instantiate_classes(Namespace(anchors=parsed.anchors)).anchors or {}
        own = module.streamer.anchor
        anchors = {**named, type(own).__name__: own}
        opening = PromptOpening(serving.prompt or FIRST_PROMPT)
    modules = arms_of(module.to(device), anchors)
    first = serving.anchor or next(reversed(modules))
    return LiveSession(modules, opening, anchor=first, seed=serving.seed)


def anchors_of(arms: Mapping[str, Variation]) -> dict[str, Anchor]:
    """Return the anchors of those arms that differ in nothing else: only these can change while a stream runs.

    Raises:
        ValueError: If there is none.
    """
    found = {
        name: arm.anchor
        for name, arm in arms.items()
        if arm.anchor is not None and arm == Variation(arm.anchor)
    }
    if not found:
        raise ValueError("`anchors` must name at least one anchor to stream with")
    return found


def arms_of(module: StreamModule, anchors: Mapping[str, Anchor]) -> dict[str, PixelStreaming]:
    """Return what streams with each anchor; backbone, codec and text encoder are shared.

    Raises:
        ValueError: If an anchor does not fit the window.
    """
    return {name: with_variation(module, Variation(anchor)) for name, anchor in anchors.items()}
