import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_adastate.data import ClipSampler, VideoFolderData
from lightning_adastate.media.video import write_video

NUM, FRAMES = 11, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven videos; pixel value is 20 times the video plus the frame."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(NUM):
        value = (20 * i + torch.arange(FRAMES)).to(torch.uint8)
        path = root / ("deep" if i == 3 else ".") / f"{i:02d}.mp4"
        path.parent.mkdir(exist_ok=True)
        video = value[:, None, None, None].expand(FRAMES, 3, 4, 6)
        write_video(path, video, quality="lossless")
        path.with_suffix(".txt").write_text(f"video\n number {i} \n")
    return root


def make(folder, **overrides):
    arguments = {"clip_frames": 4, "height": 4, "width": 6, "batch_size": 2, "val_fraction": 0.1}
    return VideoFolderData(str(folder), **{**arguments, **overrides})


def values(batch):
    """Return the value of every frame of every clip."""
    return (batch["video"][:, :, 0, 0, 0] * 255).round().int().tolist()


def epoch(data, number=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return [values(batch) for batch in loader]


def test_a_batch_holds_consecutive_frames_with_their_own_caption(folder):
    data = make(folder)
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == 5
    for batch in batches:
        assert batch["video"].shape == (2, 4, 3, 4, 6)
        assert batch["video"].dtype == torch.float32
        for row, prompt in zip(values(batch), batch["prompts"], strict=True):
            assert row == list(range(row[0], row[0] + 4))
            assert prompt == f"video number {row[0] // 20}"


def test_training_and_validation_share_no_video_and_use_all(folder):
    data = make(folder, val_fraction=0.3, batch_size=1)
    data.setup()
    train = {row[0][0] // 20 for row in epoch(data)}
    val = [values(batch)[0][0] for batch in data.val_dataloader()]
    assert all(value % 20 == 0 for value in val), "validation clips start at the first frame"
    assert len(val) == 3
    assert train | {value // 20 for value in val} == set(range(NUM))
    assert len(train) == NUM - 3


def test_no_validation_videos_means_no_loader(folder):
    data = make(folder, val_fraction=0.0)
    data.setup()
    assert data.val_dataloader() == []


def test_order_and_places_change_with_epoch_and_seed_only(folder):
    data = make(folder)
    data.setup()
    assert epoch(data) == epoch(data)
    assert epoch(data, 1) != epoch(data)
    other = make(folder, seed=1)
    other.setup()
    assert epoch(other) != epoch(data)
    starts = {row[0] % 20 for number in range(8) for batch in epoch(data, number) for row in batch}
    assert starts == set(range(FRAMES - 4 + 1))


@pytest.mark.parametrize("overrides", [{"keep": "decoded"}, {"num_workers": 2}], ids=str)
def test_memory_and_workers_change_nothing(folder, overrides):
    data, plain = make(folder, **overrides), make(folder)
    data.setup()
    plain.setup()
    assert epoch(data, 1) == epoch(plain, 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_global_random_state_is_not_touched(folder, num_workers):
    data = make(folder, num_workers=num_workers)
    data.setup()
    before = torch.random.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("done", [1, 3])
def test_a_loader_goes_on_where_its_saved_state_stopped(folder, num_workers, done):
    data = make(folder, num_workers=num_workers)
    data.setup()
    first = data.train_dataloader()
    batches = iter(first)
    for _ in range(done):
        next(batches)
    state = first.state_dict()
    rest = [values(batch) for batch in batches]
    second = data.train_dataloader()
    second.load_state_dict(state)
    assert [values(batch) for batch in second] == rest
    assert len(rest) == 5 - done


def test_ranks_see_disjoint_videos(folder):
    clips = make(folder)
    clips.setup()
    seen = []
    for rank in range(3):
        sampler = ClipSampler(clips.train_rows, num_replicas=3, rank=rank, seed=0)
        sampler.set_epoch(2)
        seen.append([draw.video for draw in sampler])
    assert [len(one) for one in seen] == [3, 3, 3]
    assert len({video for one in seen for video in one}) == 9


def test_a_video_is_cut_at_the_same_place_on_any_number_of_ranks(folder):
    data = make(folder)
    data.setup()
    alone = dict(ClipSampler(data.train_rows, seed=5))
    for rank in range(2):
        for video, number in ClipSampler(data.train_rows, num_replicas=2, rank=rank, seed=5):
            assert alone[video] == number


class Recorder(LightningModule):
    """Train one number and write down what was seen."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, values(batch)))
        return self.weight * batch["video"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, where, max_steps, ckpt_path=None):
    module = Recorder()
    saver = ModelCheckpoint(
        where,
        filename="{step}",
        every_n_train_steps=1,
        save_top_k=-1,
        save_on_train_epoch_end=False,
    )
    ender = ModelCheckpoint(
        where, filename="end-{step}", save_top_k=-1, save_on_train_epoch_end=True
    )
    trainer = Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, callbacks=[saver, ender],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, make(folder), ckpt_path=ckpt_path)
    return module.seen


@pytest.mark.filterwarnings("ignore:.*val_dataloader", "ignore:The dirpath has changed")
@pytest.mark.parametrize("stop", [3, 5, 7, 10])
def test_a_resumed_training_sees_the_batches_it_would_have_seen(folder, tmp_path, stop):
    whole = fit(folder, tmp_path / "whole", 12)
    assert [number for number, _ in whole] == [0] * 5 + [1] * 5 + [2] * 2
    assert whole[0][1] != whole[5][1] != whole[10][1]
    first = fit(folder, tmp_path / "first", stop)
    assert first == whole[:stop]
    saved = sorted((tmp_path / "first").glob(f"*step={stop}.ckpt"))
    assert len(saved) == 2  # after the last batch, and when the training stopped
    for path in saved:
        rest = fit(folder, tmp_path / path.stem, 12, path)
        assert [seen for _, seen in rest] == [seen for _, seen in whole[stop:]], path


def test_a_folder_that_does_not_fit_is_refused_naming_the_file(folder, tmp_path):
    def refuse(message, name, **overrides):
        with pytest.raises(ValueError, match=message) as error:
            make(tmp_path, **overrides).setup()
        assert name in str(error.value)
        assert "\n" not in str(error.value)

    with pytest.raises(ValueError, match="nowhere' does not exist"):
        make(tmp_path / "nowhere").setup()
    refuse("holds no videos", str(tmp_path))
    video = torch.zeros(5, 3, 4, 6)
    write_video(tmp_path / "a.mp4", video)
    refuse("has no caption; write it to", "a.txt")
    (tmp_path / "a.txt").write_text(" \n")
    refuse("is empty", "a.txt")
    (tmp_path / "a.txt").write_text("fine")
    refuse("has 5 frames, `clip_frames` is 6", "a.mp4", clip_frames=6)
    (tmp_path / "b.txt").write_text("fine")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    refuse("cannot be read|is broken", "b.mp4")


def test_too_few_videos_for_a_batch_are_refused(folder):
    data = make(folder, batch_size=16)
    data.setup()
    with pytest.raises(ValueError, match=r"has 10 videos for training, one batch .* needs 16"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"clip_frames": 0}, "`clip_frames` must be 1 or more, got 0"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more, got 0"),
        ({"val_fraction": 1.0}, r"`val_fraction` must be in \[0, 1\), got 1.0"),
        ({"num_workers": -1}, "`num_workers` and `seed`"),
        ({"keep": "all"}, "`keep` must be nothing or decoded, got 'all'"),
    ],
)
def test_impossible_arguments_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        make("anywhere", **overrides)
