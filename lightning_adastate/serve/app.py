"""The page and its WebSocket as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from lightning_adastate.serve.commands import read_command, read_message
from lightning_adastate.serve.guard import Guard
from lightning_adastate.serve.live import BusyError, LiveStream
from lightning_adastate.serve.snapshot import Snapshot
from lightning_adastate.serve.viewer import Viewer

PAGE = Path(__file__).parent / "page"

STALL_SECONDS = 10.0
"""A viewer that takes nothing for so long is dropped."""

REFUSED, BUSY, STUCK = 1008, 1013, 1011
"""Codes of closed WebSockets."""

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def live_app(
    stream: LiveStream,
    guard: Guard | None = None,
    *,
    stall_seconds: float = STALL_SECONDS,
    on_stop: Callable[[Snapshot], None] | None = None,
) -> Starlette:
    """Return the application: the page at ``/``, the stream at ``/live``, ``/health`` for machines.

    Args:
        stream: What is watched. It runs from the application's start to its end.
        guard: Who is let in; ``None`` is anybody on this machine.
        stall_seconds: A viewer that takes nothing for so long is dropped.
        on_stop: Called with where the session stands, once it has stopped.
    """
    guard = Guard() if guard is None else guard

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        running = asyncio.create_task(stream.run())
        try:
            yield
        finally:
            snapshot = await stream.stop()
            await running
            if on_stop is not None:
                on_stop(snapshot)

    async def page(request: Request) -> Response:
        obstacle = guard.obstacle(request)
        if obstacle:
            return PlainTextResponse(obstacle, 403, HEADERS)
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    async def health(request: Request) -> Response:
        del request
        return JSONResponse(
            {
                "chunks": stream.num_chunks,
                "viewers": len(stream.viewers),
                "errors": stream.num_errors,
            }
        )

    async def live(socket: WebSocket) -> None:
        await socket.accept()  # a refusal before it could not say why
        obstacle = guard.obstacle(socket)
        if obstacle:
            await socket.close(REFUSED, obstacle)
            return
        try:
            viewer = stream.join()
        except BusyError as error:
            await socket.close(BUSY, str(error))
            return
        try:
            await _first(_send(socket, viewer, stall_seconds), _receive(socket, viewer, stream))
        finally:
            stream.leave(viewer)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/health", health),
            WebSocketRoute("/live", live),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        lifespan=lifespan,
    )


async def _first(*works: Awaitable[None]) -> None:
    """Do several things until the first of them ends, and end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(socket: WebSocket, viewer: Viewer, stall_seconds: float) -> None:
    """Send what waits, until the viewer goes, or takes nothing for too long."""
    while not viewer.is_stuck:
        message = await viewer.next()
        send = socket.send_text if isinstance(message, str) else socket.send_bytes
        try:
            await asyncio.wait_for(send(message), stall_seconds)  # type: ignore[arg-type]
        except (asyncio.TimeoutError, WebSocketDisconnect):
            return


async def _receive(socket: WebSocket, viewer: Viewer, stream: LiveStream) -> None:
    """Do what a viewer asks for, one thing after the other, until it goes."""
    while True:
        received = await socket.receive()
        if received["type"] == "websocket.disconnect":
            return
        answer = await answer_to(received.get("text") or "", viewer, stream)
        viewer.answer(json.dumps(answer))


async def answer_to(text: str, viewer: Viewer, stream: LiveStream) -> dict[str, object]:
    """Do what a message asks for, and return the answer: ``done``, or ``refused`` and why.

    Args:
        text: The message as it came.
        viewer: Who asks.
        stream: Whom.
    """
    number: object = None
    try:
        message = read_message(text)
        number = message.get("id") if isinstance(message.get("id"), int) else None
        if message["type"] == "ping":
            return {"type": "pong", "id": number}
        if not viewer.may_ask():
            raise ValueError("that is too much at a time; wait a few seconds")
        if message["type"] == "pause":
            if not isinstance(message.get("on"), bool):
                raise ValueError("`on` must be true or false")
            stream.pause(on=message["on"] is True)
        else:
            await stream.do(read_command(message))
    except (ValueError, RuntimeError) as error:
        return {"type": "refused", "id": number, "text": str(error)[:400]}
    return {"type": "done", "id": number}
