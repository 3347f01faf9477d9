"""serve: a page that streams while it generates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_adastate.recipes.names import resolve_arguments


def main(args: Sequence[str] | None = None) -> int:
    """Parse, say where the page is, build, serve, save."""
    try:
        from lightning_adastate.serve.app import live_app
        from lightning_adastate.serve.server import address_of, bind, say, serve_until_stopped
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`serve` needs the extra `serve`, {error.name} is missing: pip install 'lightning-adastate[serve]'"
        ) from error
    from lightning_adastate.serve.guard import Guard
    from lightning_adastate.serve.live import LiveStream
    from lightning_adastate.serve.loading import build_session, options_of, serve_parser
    from lightning_adastate.serve.session_file import load_session, save_session
    from lightning_adastate.serve.snapshot import Snapshot

    given = resolve_arguments(list(args or ()))
    parser = serve_parser(given)
    parsed = parser.parse_args(given)
    serving = options_of(parser, parsed)
    guard = Guard(serving.host, serving.token)
    with bind(serving.host, serving.port) as bound:
        say(address_of(bound, guard))
        session = build_session(parser, parsed, serving)
        if serving.state_in is not None:
            session.stand(load_session(serving.state_in, session.modules))

        def save(snapshot: Snapshot) -> None:
            path: Path = serving.state_path()
            save_session(path, snapshot, session.modules)
            say(f"saved to {path}; `serve --state_in {path}` goes on")

        stream = LiveStream(session, fps=serving.fps, max_viewers=serving.max_viewers)
        serve_until_stopped(live_app(stream, guard, on_stop=save), bound)
    return 0
