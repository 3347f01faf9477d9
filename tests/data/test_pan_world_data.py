import pytest
import torch

from lightning_adastate.data import PanWorldData
from lightning_adastate.data.pan_world import write_video
from lightning_adastate.media.video import to_uint8
from lightning_adastate.worlds import PanWorld


def make(cache, world=None, **overrides):
    arguments = {"num_clips": 6, "video_frames": 9, "clip_frames": 5, "batch_size": 2, "seed": 3}
    return PanWorldData(world or PanWorld(), cache_folder=str(cache), **{**arguments, **overrides})


def test_clips_are_the_worlds_own_frames_and_prompts(tmp_path):
    data = make(tmp_path, clip_frames=9, val_fraction=0.2)
    data.prepare_data()
    data.setup()
    episodes = data.world.episodes(6, 9, seed=3)
    truth = {tuple(to_uint8(v).flatten().tolist()): p for v, p in
             zip(episodes.video_BFCHW, episodes.prompts, strict=True)}  # fmt: skip
    count = 0
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            for video, prompt in zip(batch["video"], batch["prompts"], strict=True):
                assert truth[tuple(to_uint8(video).flatten().tolist())] == prompt
                count += 1
    assert count == 5  # of 5 for training, batches of 2 leave one out


def test_a_second_preparation_renders_nothing(tmp_path, monkeypatch):
    make(tmp_path).prepare_data()
    monkeypatch.setattr("lightning_adastate.data.pan_world.write_video", None)
    make(tmp_path).prepare_data()


def test_every_argument_that_changes_the_clips_changes_the_folder(tmp_path):
    folders = [
        make(tmp_path, **overrides).folder
        for overrides in (
            {}, {"seed": 4}, {"num_clips": 7}, {"video_frames": 10},
            {"world": PanWorld(shake=2.0)}, {"world": PanWorld(hidden_frames=7)},
        )
    ]  # fmt: skip
    assert len(set(folders)) == len(folders)
    assert make(tmp_path, batch_size=3, clip_frames=4, keep="nothing").folder == folders[0]


def test_an_interrupted_rendering_leaves_no_folder_to_read(tmp_path, monkeypatch):
    def fail_at_the_third(path, *args, **kwargs):
        if path.stem == "000002":
            raise KeyboardInterrupt
        write_video(path, *args, **kwargs)

    monkeypatch.setattr("lightning_adastate.data.pan_world.write_video", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_losing_the_race_to_another_process_is_no_error(tmp_path, monkeypatch):
    data = make(tmp_path)

    def rename(old, new):
        new.mkdir()
        (new / "theirs").touch()
        raise OSError("not empty")

    monkeypatch.setattr("lightning_adastate.data.pan_world.os.rename", rename)
    data.prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [data.folder.name]


def test_rendering_draws_nothing_from_the_global_random_state(tmp_path):
    before = torch.random.get_rng_state()
    make(tmp_path).prepare_data()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_impossible_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`num_clips` must be 1 or more, got 0"):
        make(tmp_path, num_clips=0)
    with pytest.raises(
        ValueError, match="`video_frames` must be at least `clip_frames` 12, got 9"
    ):
        make(tmp_path, clip_frames=12)
