"""One stream for many: paced, paused when nobody watches, restarted after errors, bounded queues."""

import asyncio
import json
import time

import live_toy
import pytest

from lightning_adastate.serve import BusyError, LiveStream, Viewer
from lightning_adastate.serve.commands import read_command
from lightning_adastate.serve.messages import unpack_chunk


def run(scene, **options):
    """Play a scene with a stream that runs, and stop it."""

    async def play():
        stream = LiveStream(live_toy.session(), **{"fps": 200, **options})
        running = asyncio.create_task(stream.run())
        try:
            return await asyncio.wait_for(scene(stream), 60)
        finally:
            await stream.stop()
            await asyncio.wait_for(running, 10)

    return asyncio.run(play())


async def chunks(viewer, count):
    """The next chunks that a viewer gets; everything else it got meanwhile."""
    found, others = [], []
    while len(found) < count:
        message = await viewer.next()
        (found if isinstance(message, bytes) else others).append(message)
    return found, [json.loads(other) for other in others]


def test_it_pauses_when_nobody_watches_and_goes_on_where_it_was():
    async def scene(stream):
        await asyncio.sleep(0.2)
        assert stream.num_chunks == 0
        viewer = stream.join()
        await chunks(viewer, 2)
        stream.leave(viewer)
        await asyncio.sleep(0.3)  # the chunk at work is finished
        made = stream.num_chunks
        await asyncio.sleep(0.3)
        assert stream.num_chunks == made
        (first, second), _ = await chunks(stream.join(), 2)
        return made, [unpack_chunk(each)[0]["lanes"][0]["chunk"] for each in (first, second)]

    made, seen = run(scene)
    assert seen == [made - 1, made]  # the newest at once, then the next


def test_fifty_viewers_get_the_same_stream():
    async def scene(stream):
        viewers = [stream.join() for _ in range(50)]
        got = await asyncio.gather(*(chunks(viewer, 3) for viewer in viewers))
        return [found for found, _ in got], stream.num_chunks

    got, made = run(scene)
    assert made <= 5
    first = [unpack_chunk(each)[0]["lanes"][0]["chunk"] for each in got[0]]
    assert first == [0, 1, 2]
    assert all(each == got[0] for each in got)


def test_no_more_viewers_than_there_may_be():
    async def scene(stream):
        kept = [stream.join(), stream.join()]
        with pytest.raises(BusyError, match="2 people are watching"):
            stream.join()
        stream.leave(kept[0])
        stream.join()

    run(scene, max_viewers=2)


def test_chunks_are_made_as_fast_as_they_are_watched():
    async def scene(stream):
        viewer = stream.join()
        await chunks(viewer, 1)
        begin, made = time.monotonic(), stream.num_chunks
        await chunks(viewer, 2)
        return (time.monotonic() - begin) / (stream.num_chunks - made)

    assert run(scene, fps=4) > 0.7  # 3 frames last 0.75 s


def test_a_slow_viewer_loses_the_old_pictures_and_holds_no_more_than_two():
    async def scene(stream):
        slow, quick = stream.join(), stream.join()
        await chunks(quick, 8)
        assert slow.num_waiting <= 3  # two pictures and a status
        found, _ = await chunks(slow, 2)
        return [unpack_chunk(each)[0]["lanes"][0]["chunk"] for each in found], slow.num_dropped

    seen, dropped = run(scene)
    assert seen[0] >= 6
    assert seen[1] == seen[0] + 1
    assert dropped >= 6


def test_commands_are_done_between_chunks_and_everybody_sees_the_status():
    async def scene(stream):
        viewer = stream.join()
        await chunks(viewer, 2)
        await stream.do(read_command({"type": "branch", "anchor": "adaptive"}))
        with pytest.raises(ValueError, match="no save 9"):
            await stream.do(read_command({"type": "restore", "save": 9}))
        found, others = await chunks(viewer, 3)
        return unpack_chunk(found[-1])[0], others[-1]

    header, status = run(scene)
    assert [lane["anchor"] for lane in header["lanes"]] == ["static", "adaptive"]
    assert header["layout"] == [[0, "content"], [1, "content"], [1, "hidden"]]
    assert [lane["anchor"] for lane in status["lanes"]] == ["static", "adaptive"]
    assert (status["viewers"], status["paused"]) == (1, False)


def test_an_error_of_the_model_is_a_message_without_a_trace_and_the_stream_goes_on(monkeypatch):
    async def scene(stream):
        viewer = stream.join()
        await chunks(viewer, 2)
        codec = stream.session.lanes[0].module.codec
        real, left = codec.decode, [2]

        def failing(*given):
            left[0] -= 1
            if left[0] >= 0:
                raise RuntimeError("CUDA out of memory at /secret/path")
            return real(*given)

        monkeypatch.setattr(codec, "decode", failing)
        _, others = await chunks(viewer, 6)
        return [each["text"] for each in others if each["type"] == "error"], stream

    texts, stream = run(scene)
    assert texts == [
        "the model failed (RuntimeError, number 1 in the server's log); the chunk is made again",
        "the model failed (RuntimeError, number 2 in the server's log); it begins anew",
    ]
    assert [save.label for save in stream.session.saves.values()] == ["before the error"]


def test_a_model_that_fails_again_and_again_waits_until_somebody_goes_on(monkeypatch):
    async def scene(stream):
        viewer = stream.join()
        await chunks(viewer, 1)
        codec = stream.session.lanes[0].module.codec
        monkeypatch.setattr(codec, "decode", lambda *_: {}["lost"])
        texts = []
        while len(texts) < 3:
            message = await viewer.next()
            if isinstance(message, str) and json.loads(message)["type"] == "error":
                texts.append(json.loads(message)["text"])
        assert texts[-1].endswith("it waits until somebody goes on")
        await asyncio.sleep(0.1)
        assert stream.is_paused
        monkeypatch.undo()
        stream.pause(on=False)
        await chunks(viewer, 3)

    run(scene)


def test_a_viewer_that_takes_no_answers_is_stuck_and_holds_no_more():
    async def scene():
        viewer = Viewer()
        for number in range(1000):
            viewer.answer(str(number))
        assert viewer.is_stuck
        assert viewer.num_waiting < 20

    asyncio.run(scene())


def test_nobody_may_ask_too_much_at_a_time():
    async def scene():
        viewer = Viewer()
        return [viewer.may_ask() for _ in range(100)]

    assert sum(asyncio.run(scene())) == 30
