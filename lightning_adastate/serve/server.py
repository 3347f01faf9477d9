"""Bind, say where, and serve until a signal comes."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette

from lightning_adastate.serve.commands import MAX_MESSAGE
from lightning_adastate.serve.guard import Guard

UNSENT_SECONDS = 30
"""A connection whose other end takes nothing for so long is closed by the system."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Name or address.
        port: Port; 0 takes any that is free.

    Raises:
        ValueError: If it cannot be bound, naming it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise ValueError(
            f"cannot listen on {host}:{port}: {reason}; `--port 0` takes any that is free"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNSENT_SECONDS)
    return bound


def address_of(bound: socket.socket, guard: Guard) -> str:
    """Return what to open in a browser."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={guard.token}" if guard.token else "")


def server_config(app: Starlette) -> uvicorn.Config:
    """Return how connections are kept: short messages in, none compressed, dead ones noticed."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws_max_size=4 * MAX_MESSAGE,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
        server_header=False,
    )


def serve_until_stopped(app: Starlette, bound: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; the application has ended when this returns, or the signal comes again."""
    uvicorn.Server(server_config(app)).run(sockets=[bound])


def say(text: str) -> None:
    """Print at once, wherever the output goes."""
    print(text, flush=True)
