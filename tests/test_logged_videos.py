"""Videos of a training in TensorBoard and Weights & Biases, read back as these read them."""

import io
import os

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from training_toy import ClipData, flow_matching, trainer

from lightning_adastate.callbacks import StreamMetrics
from lightning_adastate.callbacks.logged_videos import MAX_GIF_FRAMES, gif_of
from lightning_adastate.media.reading import read_video


def streams(**options):
    return StreamMetrics(
        "a prompt", num_chunks=4, every_steps=2, keep="logged", fps=8, window_frames=2, **options
    )


def pictures(gif):
    image = Image.open(io.BytesIO(gif))
    frames = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        shown = bytearray(image.convert("RGB").tobytes())
        frames.append(
            torch.frombuffer(shown, dtype=torch.uint8).view(image.height, image.width, 3)
        )
    return torch.stack(frames).permute(0, 3, 1, 2), image.info["duration"]


def test_a_gif_shows_the_frames_at_their_rate():
    video = torch.zeros(5, 3, 6, 10, dtype=torch.uint8)
    for t in range(5):
        video[t, t % 3, :, 2 * t : 2 * t + 2] = 255
    shown, milliseconds = pictures(gif_of(video, fps=10.0))
    assert torch.equal(shown, video)
    assert milliseconds == 100


def test_a_long_gif_leaves_frames_out_and_keeps_the_time():
    frames = 2 * MAX_GIF_FRAMES + 1
    video = torch.arange(frames).remainder(256).byte()[:, None, None, None].expand(-1, 3, 2, 2)
    shown, milliseconds = pictures(gif_of(video, fps=30.0))
    assert len(shown) == -(-frames // 3)
    assert milliseconds == 100


def test_tensorboard_shows_the_videos_that_were_kept(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path, name="runs", version="")
    run = trainer(tmp_path, logger=logger, max_steps=2, callbacks=[streams()])
    run.fit(flow_matching(), ClipData(4))
    events = accumulator.EventAccumulator(logger.log_dir, {"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["stream/video-00"]
    (event,) = events.Images("stream/video-00")
    assert event.step == 2
    shown, milliseconds = pictures(event.encoded_image_string)
    kept = read_video(tmp_path / "runs/streams/step-00000002/stream-00.mp4")
    assert shown.shape == kept.shape
    assert milliseconds == 120, "125 in hundredths of a second"
    assert (shown.float() - kept.float()).abs().mean() < 6, "256 colours"
    assert "stream/shift" in events.Tags()["scalars"]


def test_loggers_without_videos_are_named_before_training(tmp_path):
    run = trainer(tmp_path, logger=CSVLogger(tmp_path), max_steps=2, callbacks=[streams()])
    with pytest.raises(ValueError, match=r"TensorBoardLogger or a WandbLogger .* got CSVLogger"):
        run.fit(flow_matching(), ClipData(4))


@pytest.mark.slow
def test_wandb_takes_the_videos_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=str(tmp_path), offline=True)
    run = trainer(tmp_path, logger=logger, max_steps=2, callbacks=[streams()])
    run.fit(flow_matching(), ClipData(4))
    logger.experiment.finish()
    (media,) = tmp_path.rglob("media/videos/stream/*.mp4")
    (kept,) = tmp_path.rglob("step-00000002/stream-00.mp4")
    assert torch.equal(read_video(media), read_video(kept))
