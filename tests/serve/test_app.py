"""The application over real sockets: who is let in, who is dropped, and what is left behind."""

import asyncio
import contextlib
import gc
import json
import socket
import threading
import tracemalloc

import live_toy
import pytest

uvicorn = pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")

from websockets.asyncio.client import connect

from lightning_adastate.serve import LiveStream
from lightning_adastate.serve.app import live_app
from lightning_adastate.serve.guard import Guard, is_loopback
from lightning_adastate.serve.server import address_of, bind, server_config


@contextlib.asynccontextmanager
async def serving(*, guard=None, stall_seconds=10.0, saved=None, **options):
    """A server on a free port in this loop; yields its stream and port."""
    stream = LiveStream(live_toy.session(), **{"fps": 60, **options})
    app = live_app(
        stream,
        guard,
        stall_seconds=stall_seconds,
        on_stop=saved.append if saved is not None else None,
    )
    with bind("127.0.0.1", 0) as bound:
        server = uvicorn.Server(server_config(app))
        server.capture_signals = contextlib.nullcontext  # they are pytest's
        running = asyncio.create_task(server.serve([bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield stream, bound.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(running, 20)


def run(scene):
    """Play a scene that must come to an end."""
    return asyncio.run(asyncio.wait_for(scene(), 90))


async def fetch(port, path="/", **headers):
    """A plain HTTP request: status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    given = {"Host": f"127.0.0.1:{port}", "Connection": "close", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def closing_reason(port, query="", **options):
    """Why a WebSocket is closed again; empty if it is not."""
    async with connect(f"ws://127.0.0.1:{port}/live{query}", **options) as socket_:
        try:
            await asyncio.wait_for(socket_.recv(), 5)
        except websockets.ConnectionClosed as closed:
            return f"{closed.rcvd.code} {closed.rcvd.reason}"
    return ""


def test_pages_of_other_origins_and_names_that_lead_here_are_refused():
    async def scene():
        async with serving() as (_, port):
            assert await closing_reason(port, origin=f"http://127.0.0.1:{port}") == ""
            assert await closing_reason(port) == ""  # no browser
            other = await closing_reason(port, origin="https://elsewhere.example")
            assert other == "1008 pages of other origins may not connect"
            near = await closing_reason(port, origin="http://127.0.0.1:1")
            assert near.startswith("1008 pages of other origins")
            status, body = await fetch(port, Host="rebound.example")
            assert (status, body) == (
                403,
                "this server is for this machine, not for 'rebound.example'",
            )
            status, body = await fetch(port)
            assert status == 200
            assert "<main>" in body
            assert (await fetch(port, "/page/../app.py"))[0] == 404

    run(scene)


def test_beyond_loopback_everybody_needs_the_token():
    assert Guard("127.0.0.1").token is None
    assert [
        is_loopback(host) for host in ("localhost", "::1", "0.0.0.0", "10.0.0.1", "x.org")
    ] == [
        True,
        True,
        False,
        False,
        False,
    ]
    guard = Guard("0.0.0.0")
    assert len(guard.token) > 20

    async def scene():
        async with serving(guard=guard) as (stream, port):
            wrong = await closing_reason(port, "?token=guess")
            assert wrong.startswith("1008 the token is missing or wrong")
            assert (await closing_reason(port)).startswith("1008 the token is missing")
            assert await closing_reason(port, f"?token={guard.token}") == ""
            assert (await fetch(port))[0] == 403
            assert (await fetch(port, f"/?token={guard.token}"))[0] == 200
            assert not stream.viewers

    run(scene)


def test_the_printed_address_has_the_token():
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound, Guard()) == f"http://127.0.0.1:{port}/"
        assert address_of(bound, Guard(token="abc")).endswith(f":{port}/?token=abc")
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}: .*--port 0"):
            bind("127.0.0.1", port)


def test_a_stalled_viewer_is_dropped_and_harms_nobody():
    async def scene():
        async with serving(stall_seconds=0.5) as (stream, port):
            stalled = socket.create_connection(("127.0.0.1", port))
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(
                f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            async with connect(f"ws://127.0.0.1:{port}/live", max_size=None) as healthy:
                while len(stream.viewers) < 2:
                    await asyncio.sleep(0.01)
                large = bytes(1 << 20)
                clock = asyncio.get_running_loop().time
                begun = clock()
                while (
                    clock() < begun + 20
                ):  # more than all buffers on the way hold, for longer than it may stall
                    for viewer in stream.viewers:
                        viewer.offer(large)
                    got = 0
                    while got != large:
                        got = await asyncio.wait_for(healthy.recv(), 5)
                    if len(stream.viewers) == 1:
                        break
                assert len(stream.viewers) == 1
                made = stream.num_chunks
                while stream.num_chunks < made + 2:
                    await asyncio.wait_for(healthy.recv(), 5)
            stalled.close()

    run(scene)


@pytest.mark.slow
def test_two_hundred_connections_leave_nothing_behind():
    async def scene():
        async with serving(fps=1) as (stream, port):

            async def come_and_go(number):
                async with connect(f"ws://127.0.0.1:{port}/live") as socket_:
                    await socket_.recv()
                    if number % 3 == 0:  # gone without a word
                        socket_.transport.abort()

            async def settled():
                while stream.viewers:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)
                gc.collect()
                return len(asyncio.all_tasks()), threading.active_count()

            for number in range(10):
                await come_and_go(number)
            before = await settled()
            tracemalloc.start()
            base = tracemalloc.get_traced_memory()[0]
            for number in range(200):
                await come_and_go(number)
            assert await settled() == before
            grown = tracemalloc.get_traced_memory()[0] - base
            tracemalloc.stop()
            return grown

    assert run(scene) < 400_000  # 2 KB each; one chunk is more


def test_messages_are_answered_and_what_is_too_long_ends_the_connection():
    async def scene():
        async with serving() as (_, port):  # noqa: SIM117, the server ends after its client
            async with connect(f"ws://127.0.0.1:{port}/live") as socket_:

                async def ask(text):
                    await socket_.send(text)
                    while True:
                        message = await asyncio.wait_for(socket_.recv(), 10)
                        if isinstance(message, str):
                            answer = json.loads(message)
                            if answer["type"] not in ("status", "error"):
                                return answer

                assert await ask('{"type": "ping", "id": 4}') == {"type": "pong", "id": 4}
                assert await ask('{"type": "save", "id": 5}') == {"type": "done", "id": 5}
                refused = await ask('{"type": "pause", "id": 6, "on": 1}')
                assert refused == {
                    "type": "refused",
                    "id": 6,
                    "text": "`on` must be true or false",
                }
                assert (await ask("{"))["text"] == "a message is a JSON object"
                answers = [await ask('{"type": "forget", "save": 77}') for _ in range(40)]
                assert answers[-1]["text"] == "that is too much at a time; wait a few seconds"
                await socket_.send("x" * 100_000)
                try:
                    while True:
                        await asyncio.wait_for(socket_.recv(), 10)
                except websockets.ConnectionClosed as closed:
                    return closed.rcvd.code

    assert run(scene) == 1009


def test_stopping_the_server_hands_over_where_the_session_stands():
    saved = []

    async def scene():
        async with (
            serving(saved=saved) as (_, port),
            connect(f"ws://127.0.0.1:{port}/live") as socket_,
        ):
            while not isinstance(await socket_.recv(), bytes):
                pass

    run(scene)
    assert saved[0].lanes[0].state.chunk >= 1
