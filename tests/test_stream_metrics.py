"""StreamMetrics: long streams while training, and a training that does not notice."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from training_toy import ClipData, flow_matching, self_forcing, trainer

from lightning_adastate.callbacks import ExactResume, StreamMetrics
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.media.reading import probe_video
from lightning_adastate.metrics import VideoMetrics


class DrawingCodec(PixelShuffleCodec):
    """A third-party codec that draws from every global random state."""

    def decode(self, latents_BFCHW, state):
        random.random(), np.random.rand(), torch.rand(3)
        return super().decode(latents_BFCHW, state)


class Watch(Callback):
    """Writes down what was logged, and when."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        shift = trainer.callback_metrics.get("stream/shift")
        modes = [module.training for module in pl_module.generator.modules()]
        self.seen.append((trainer.global_step, None if shift is None else shift.item(), modes))


def fit(path, *callbacks, build=None, resume=None, val_count=0, **options):
    """Train for two epochs and return the model, what was seen, and the trainer."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model = (build or (lambda: self_forcing(codec=DrawingCodec(2))))()
    watch = Watch()
    run = trainer(path, max_epochs=2, callbacks=[*callbacks, ExactResume(), watch], **options)
    data = ClipData(10, val_count=val_count)
    run.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, watch.seen, run


def left_behind(model):
    found = dict(model.state_dict())
    found["torch"] = torch.get_rng_state()
    found["numpy"] = torch.from_numpy(np.random.get_state()[1].astype(np.int64))
    found["numpy place"] = torch.tensor(np.random.get_state()[2])
    found["python"] = torch.tensor(random.getstate()[1])
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def streams(**options):
    return StreamMetrics("a prompt", **{"num_chunks": 4, "window_frames": 2, **options})


def test_training_does_not_notice(tmp_path):
    plain = left_behind(fit(tmp_path)[0])
    model, seen, _ = fit(tmp_path, streams(every_steps=1))
    assert_same(left_behind(model), plain)
    assert any(shift is not None for _, shift, _ in seen)


def test_training_does_not_notice_streams_at_validation(tmp_path):
    plain = left_behind(fit(tmp_path, val_count=4)[0])
    model, _, run = fit(tmp_path, streams(), val_count=4)
    assert_same(left_behind(model), plain)
    assert {
        "stream/flicker",
        "stream/drift_luma",
        "val/loss_generator",
    } <= run.callback_metrics.keys()


def test_a_resumed_run_logs_and_ends_as_the_uninterrupted_one(tmp_path):
    class Streamed(StreamMetrics):
        def scores(self, trainer, module):
            found = super().scores(trainer, module)
            log.append((trainer.global_step, found))
            return found

    options = {"num_chunks": 4, "window_frames": 2, "every_steps": 2}
    log = []
    whole, _, _ = fit(tmp_path, Streamed("a prompt", **options))
    expected, log = log, []
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, Streamed("a prompt", **options), save, enable_checkpointing=True, max_steps=2)
    log = log[:1]  # the checkpoint is of the step that streamed; it must not stream again
    model, _, _ = fit(tmp_path, Streamed("a prompt", **options), resume=tmp_path / "step=2.ckpt")
    assert [step for step, _ in expected] == [2, 4]
    assert log == expected
    assert_same(left_behind(model), left_behind(whole))


def test_it_streams_once_per_generator_step_that_is_due(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(
        StreamMetrics,
        "scores",
        lambda self, trainer, module: steps.append(trainer.global_step) or {},
    )
    _, seen, _ = fit(tmp_path, streams(every_steps=2))
    assert steps == [2, 4]
    assert [step for step, _, _ in seen].count(2) == 2, "a critic's batch leaves the step as it is"


def test_a_sanity_check_streams_nothing(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        StreamMetrics,
        "scores",
        lambda self, trainer, module: seen.append(trainer.global_step) or {},
    )
    fit(tmp_path, streams(), val_count=4, num_sanity_val_steps=1)
    assert 0 not in seen
    assert len(seen) == 2, "one for each epoch's validation"


@pytest.mark.parametrize("ema_decay", [0.5, None])
def test_what_is_scored_is_what_would_be_generated(tmp_path, ema_decay):
    build = lambda: flow_matching(ema_decay=ema_decay)
    model, _, run = fit(tmp_path, streams(every_steps=1, seed=3), build=build)
    state = model.open_stream(["a prompt"], seed=3)
    video = torch.cat([made.video_BFCHW for made in model.stream(state, 4)], dim=1)
    metrics = VideoMetrics(window_frames=2)
    metrics.update(video)
    expected = {f"stream/{n}": v.item() for n, v in metrics.compute().items() if not v.isnan()}
    logged = {n: v.item() for n, v in run.callback_metrics.items() if n.startswith("stream/")}
    assert logged == pytest.approx(expected, rel=1e-5)


def test_what_is_due_reaches_the_logger_whenever_it_logs(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, streams(every_steps=2), logger=logger, log_every_n_steps=1000)
    rows = list(csv.DictReader(Path(logger.log_dir, "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["stream/flicker"]] == ["2", "4"]


def test_modes_are_as_they_were(tmp_path):
    _, seen, _ = fit(tmp_path, streams(every_steps=1), build=lambda: flow_matching(ema_decay=None))
    assert all(all(modes) for _, _, modes in seen)


def test_videos_are_kept_if_asked_for(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    keep = StreamMetrics(
        str(tmp_path / "prompts.txt"), num_chunks=4, every_steps=2, keep="videos", fps=8
    )
    fit(tmp_path, keep)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4"))
    assert found == [
        f"streams/step-{step:08d}/stream-{row:02d}.mp4" for step in (2, 4) for row in (0, 1)
    ]
    info = probe_video(tmp_path / found[0])
    assert (info.num_frames, info.height, info.fps) == (4, 192, 8)


def test_scores_alone_write_nothing(tmp_path):
    fit(tmp_path, streams(every_steps=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chunks": 0}, "`num_chunks` must be 1 or more, got 0"),
        ({"every_steps": 0}, "`every_steps` must be 1 or more, got 0"),
        ({"keep": "all"}, "`keep` must be scores, videos or logged, got 'all'"),
        ({"prompts": " "}, "the prompt is empty"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StreamMetrics(**{"prompts": "a prompt", **options})
