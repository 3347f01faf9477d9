"""A user's folder: any size and rate, bad files named together, sizes and captions that fit the model."""

import logging
import re

import pytest
import torch
from odd_videos import numbers, write
from training_toy import flow_matching, trainer

from lightning_adastate.data import PromptFileData, VideoFolderData
from lightning_adastate.data.sampler import Draw
from lightning_adastate.text import VocabularyEncoder


def data(folder, **options):
    defaults = {"clip_frames": 4, "height": 18, "width": 24, "batch_size": 1, "val_fraction": 0.0}
    return VideoFolderData(str(folder), **{**defaults, **options})


def test_videos_of_any_size_become_clips_of_one_and_it_is_said_once(tmp_path, caplog):
    for number, size in enumerate([(36, 48), (18, 24), (40, 30), (9, 12)]):
        write(tmp_path / f"{number}.mp4", size=(size[0] // 2 * 2, size[1]))
    clips = data(tmp_path)
    with caplog.at_level(logging.WARNING):
        clips.setup()
    assert len(caplog.records) == 1
    assert "3 of 4 videos are brought to 18 x 24" in caplog.text
    assert "1 of them enlarged" in caplog.text
    shapes = {tuple(clips.train_rows[Draw(row, 0)].video_FCHW.shape) for row in range(4)}
    assert shapes == {(4, 3, 18, 24)}


@pytest.mark.parametrize("keep", ["nothing", "decoded"])
def test_clips_have_the_rate_asked_for(tmp_path, keep):
    write(tmp_path / "a.mp4", 12, rate=8)
    write(tmp_path / "b.mp4", 24, rate=16)
    clips = data(tmp_path, fps=4, keep=keep)
    clips.setup()
    assert [source.num_frames for source in clips.train_rows.sources] == [6, 6]
    slow, fast = (numbers(clips.train_rows[Draw(row, 1)].video_FCHW) for row in range(2))
    assert slow == [2, 4, 6, 8]
    assert fast == [4, 8, 12, 16]


def test_different_rates_without_one_asked_for_are_refused(tmp_path):
    write(tmp_path / "a.mp4", rate=8)
    write(tmp_path / "b.mp4", rate=16)
    with pytest.raises(
        ValueError, match=r"a.mp4' has 8 frames per second, .*b.mp4' 16; give .*`fps`"
    ):
        data(tmp_path).setup()


@pytest.fixture
def bad(tmp_path):
    """Two good videos and four bad ones."""
    write(tmp_path / "a.mp4")
    write(tmp_path / "b.mp4")
    write(tmp_path / "cut.mp4")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    write(tmp_path / "short.mp4", 2)
    write(tmp_path / "silent.mp4")
    (tmp_path / "silent.txt").unlink()
    write(tmp_path / "slow.mp4", rate=2)
    return tmp_path


def test_all_bad_files_are_named_together(bad):
    with pytest.raises(ValueError, match="4 of 6 videos cannot be used") as error:
        data(bad, fps=8).setup()
    said = str(error.value)
    assert "\n" not in said
    for name in (
        "cut.mp4",
        "short.mp4' has 2 frames",
        "silent.mp4' has no caption",
        "slow.mp4' has 2 frames per",
    ):
        assert name in said
    assert "a.mp4" not in said.replace("silent", "")


def test_skip_broken_goes_on_without_them_and_says_so(bad, caplog):
    clips = data(bad, fps=8, skip_broken=True)
    with caplog.at_level(logging.WARNING):
        clips.setup()
    assert [source.path.name for source in clips.train_rows.sources] == ["a.mp4", "b.mp4"]
    assert "4 of 6 videos cannot be used" in caplog.text
    for name in ("a.mp4", "b.mp4"):
        (bad / name).unlink()
    with pytest.raises(ValueError, match="4 of 4 videos.*there is none left"):
        data(bad, fps=8, skip_broken=True).setup()


@pytest.mark.parametrize("keep", ["nothing", "decoded"])
def test_a_video_that_breaks_on_the_way_is_named_or_replaced_by_the_next(tmp_path, keep, caplog):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.mp4", 40, size=(18, 24))
    whole = (tmp_path / "a.mp4").read_bytes()
    begin = whole.index(b"mdat") + 4
    (tmp_path / "a.mp4").write_bytes(whole[: begin + 700] + bytes(len(whole) - begin - 700))
    broken = Draw(0, 36)
    clips = data(tmp_path, keep=keep)
    with pytest.raises(ValueError, match=r"a\.mp4"):
        clips.setup() or clips.train_rows[broken]
    clips = data(tmp_path, keep=keep, skip_broken=True)
    with caplog.at_level(logging.WARNING):
        clips.setup()
        if keep == "decoded":
            assert [source.path.name for source in clips.train_rows.sources] == ["b.mp4"]
        else:
            found = [clips.train_rows[broken].video_FCHW for _ in range(2)]
            assert torch.equal(found[0], clips.train_rows[Draw(1, 36)].video_FCHW)
    assert caplog.text.count("a.mp4") == 1


def test_the_size_is_the_models_and_another_is_refused_before_training(tmp_path):
    write(tmp_path / "a.mp4")
    clips = data(tmp_path, height=None, width=None)
    with pytest.raises(ValueError, match="give `height` and `width`"):
        clips.setup()
    trainer(tmp_path, max_steps=1).fit(flow_matching(), clips)
    assert clips.train_rows[Draw(0, 0)].video_FCHW.shape == (4, 3, 4, 6)
    with pytest.raises(ValueError, match=r"18 x 24, `model.frame_size` is 4 x 6"):
        trainer(tmp_path, max_steps=1).fit(flow_matching(), data(tmp_path))
    with pytest.raises(ValueError, match="or neither"):
        data(tmp_path, width=None)


def test_captions_that_are_too_long_are_found_before_training(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.mp4")
    for name in "ac":
        (tmp_path / f"{name}.txt").write_text("one two three four five")
    with pytest.raises(ValueError, match="2 of 3 videos") as error:
        trainer(tmp_path, max_steps=1).fit(
            flow_matching(), data(tmp_path, height=None, width=None)
        )
    assert f"caption file '{tmp_path}/a.txt' has 5 words, the most is 4" in str(error.value)
    assert "c.txt" in str(error.value)
    (tmp_path / "p.txt").write_text("fine\none two three four five\n")
    prompts = PromptFileData(str(tmp_path / "p.txt"))
    with pytest.raises(ValueError, match=r"prompt 2 of '.*p.txt' has 5 words"):
        trainer(tmp_path).predict(flow_matching(), prompts)


def test_an_encoder_refuses_what_it_said_it_would():
    encoder = VocabularyEncoder(8, max_tokens=2)
    assert encoder.problem("two words") is None
    for prompt in ("three such words", "..."):
        with pytest.raises(ValueError, match=re.escape(f"prompt 0 {encoder.problem(prompt)}")):
            encoder([prompt])
