"""evaluate: any video file scored, groups compared, and videos handed over under VBench's names."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from toy_videos import pan, resets, still

from lightning_adastate.cli.evaluate import main
from lightning_adastate.media.video import write_video
from lightning_adastate.metrics import VideoMetrics, video_curves


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, video, **options):
    Path(name).parent.mkdir(exist_ok=True)
    write_video(name, video[0], quality="lossless", **options)


def groups(count=3):
    """Two folders of the same file names: one moves, one does not."""
    for seed in range(count):
        write(f"moving/a-{seed:02d}.mp4", pan(40, seed=seed))
        write(f"frozen/a-{seed:02d}.mp4", still(40, seed=seed))


def results(folder="outputs/scores"):
    table = list(csv.DictReader(Path(folder, "scores.csv").read_text().splitlines()))
    return table, json.loads(Path(folder, "scores.json").read_text())


def test_files_score_what_the_metrics_say_of_their_frames(capsys):
    write("a/x.mp4", resets(70, 7, blur=9))
    assert (
        main(["a/x.mp4", "--chunk_frames=7", "--window_frames=7", "--output=o", "--pictures=none"])
        == 0
    )
    (row,), found = results("o")
    expected = VideoMetrics(chunk_frames=7, window_frames=7).per_video(
        video_curves((resets(70, 7, blur=9) * 255).round().byte())
    )
    for name, value in expected.items():
        assert float(row[name] or "nan") == pytest.approx(
            value.item(), rel=1e-4, abs=1e-6, nan_ok=True
        )
        own = found["videos"][0]["scores"][name]
        assert (math.nan if own is None else own) == pytest.approx(
            value.item(), nan_ok=True, abs=1e-6
        )
    assert (row["file"], row["frames"], row["height"], row["width"]) == (
        "a/x.mp4",
        "70",
        "21",
        "33",
    )
    assert found["settings"]["chunk_frames"] == 7
    printed = capsys.readouterr().out
    assert "boundary_jump" in printed
    assert "shift" in printed


def test_folders_with_the_same_names_are_compared_in_pairs(capsys):
    groups()
    assert main(["moving", "frozen", "--pictures=none"]) == 0
    _, found = results()
    (difference,) = found["differences"]
    assert difference["pairing"] == "paired"
    assert (difference["group"], difference["control"]) == ("frozen", "moving")
    shift = difference["scores"]["shift"]
    assert shift["mean"] == pytest.approx(-math.hypot(1, 2), abs=1e-3)
    assert shift["low"] <= shift["mean"] <= shift["high"] < 0
    assert "motion_decay" not in difference["scores"], "a frozen video has none"
    assert found["means"]["frozen"]["flicker"] == 1.0
    printed = " ".join(capsys.readouterr().out.split())
    assert "frozen - moving, paired" in printed
    assert "a frozen video" in printed


def test_other_names_are_compared_without_pairs_and_files_group_by_folder():
    groups()
    Path("frozen/a-00.mp4").rename("frozen/b-00.mp4")
    files = sorted(str(path) for path in Path().rglob("*.mp4"))
    assert main([*files, "--output=o", "--pictures=none"]) == 0
    rows, found = results("o")
    assert found["differences"][0]["pairing"] == "unpaired"
    assert [row["group"] for row in rows] == ["frozen"] * 3 + ["moving"] * 3


def test_folders_of_the_same_name_keep_their_paths():
    for folder in ("one/seed", "two/seed"):
        Path(folder).mkdir(parents=True)
        write(f"{folder}/a.mp4", still(5))
    assert main(["one/seed", "two/seed", "--pictures=none"]) == 0
    rows, found = results()
    assert [row["group"] for row in rows] == ["one/seed", "two/seed"]
    assert found["differences"][0]["scores"] == {}, "one video each has no interval"


def test_a_long_video_is_read_in_pieces(monkeypatch):
    seen = []
    from lightning_adastate.evaluation import video_groups

    def watched(path):
        for piece in read(path):
            seen.append(len(piece))
            yield piece

    read = video_groups.read_pieces
    monkeypatch.setattr(video_groups, "read_pieces", watched)
    write("a/long.mp4", pan(75, down=0, right=1))
    assert main(["a", "--pictures=none"]) == 0
    assert seen == [32, 32, 11]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give video files, or folders of them"),
        (["nothing.mp4"], "video file 'nothing.mp4' does not exist"),
        (["empty"], r"folder 'empty' holds no videos \(.mp4"),
        (["short/a.mp4"], "video file 'short/a.mp4' has 3 frames; give videos of 4 or more"),
        (["text/a.mp4"], "video file 'text/a.mp4' cannot be read"),
        (["good", "--chunk_frames=1"], "`chunk_frames` must be 2 or more"),
        (["good", "--pictures=all", "--sheet_seconds=0"], "`sheet_seconds` must be positive"),
        (["good", "--vbench=v"], "`vbench` and `prompts` go together"),
        (["good", "--prompts=p"], "`vbench` and `prompts` go together"),
    ],
)
def test_mistakes_are_named_before_anything_is_scored(args, message):
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/a.mp4").write_text("no video")
    write("short/a.mp4", still(3))
    write("good/a.mp4", still(5))
    with pytest.raises(ValueError, match=message):
        main(args)
    assert not Path("outputs").exists()


def test_ssim_loops_and_flow_are_scored_and_pictures_written(capsys):
    pytest.importorskip("cv2")
    for name, video in (("moving", pan(33, blur=9)), ("looping", resets(33, 8, blur=9))):
        write(f"{name}/x.mp4", video, fps=8)
    more = ["--flow=dis", "--chunk_frames=8", "--pictures=all", "--output=o"]
    assert main(["moving", "looping", *more]) == 0
    (moving, looping), found = results("o")
    assert (moving["loops"], moving["loop_period"]) == ("0", "")
    assert (looping["loops"], looping["loop_period"]) == ("1", "8")
    assert moving["dynamic_degree"] == "1"
    assert float(moving["flow_top"]) > 1
    assert float(looping["ssim_seam"]) < float(looping["ssim_inside"])
    assert found["settings"]["flow"] == "dis"
    printed = capsys.readouterr().out
    for name in ("flow_top", "dynamic_degree", "ssim_seam", "loop_period"):
        assert name in printed
    written = {path.name for path in Path("o").iterdir()}
    pictures = {"curves.png", "motion_consistency.png", "side_by_side.mp4", "key_frames.png"}
    assert written == {"scores.csv", "scores.json", *pictures}
    assert "side_by_side.mp4" in printed


def test_without_opencv_nothing_is_scored(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    write("a/x.mp4", pan(12))
    with pytest.raises(
        ValueError, match=r"needs OpenCV.*pip install 'lightning-adastate\[metrics\]"
    ):
        main(["a", "--flow=dis"])
    assert not Path("outputs").exists()


# -- hand-over --------------------------------------------------------------------------------------


def generated(*folders, prompts=("a cat, sleeping", "two dogs")):
    """Folders as `generate` leaves them, one per seed, and the prompts."""
    for folder in folders:
        for row in range(len(prompts)):
            write(f"{folder}/out-{row:02d}.mp4", still(4, seed=row))
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))


def hand(*args):
    return main([*args, "--vbench=for_vbench/videos", "--prompts=prompts.txt"])


def test_videos_get_vbenchs_names_and_folders_are_indices(capsys):
    generated("seed0", "seed1")
    assert hand("seed0", "seed1") == 0
    found = sorted(Path("for_vbench/videos").iterdir())
    assert [path.name for path in found] == [
        "a cat, sleeping-0.mp4",
        "a cat, sleeping-1.mp4",
        "two dogs-0.mp4",
        "two dogs-1.mp4",
    ]
    assert [path.resolve() for path in found] == [
        Path(name).resolve()
        for name in (
            "seed0/out-00.mp4",
            "seed1/out-00.mp4",
            "seed0/out-01.mp4",
            "seed1/out-01.mp4",
        )
    ]
    manifest = json.loads(Path("for_vbench/videos.json").read_text())
    assert manifest == {str(path.absolute()): path.stem[:-2] for path in found}
    assert "4 videos in for_vbench/videos" in capsys.readouterr().out
    assert not Path("outputs").exists(), "nothing is scored"
    assert hand("seed0", "seed1") == 0, "doing it again changes nothing"


def test_copies_are_whole_files_of_their_own():
    generated("seed0")
    assert hand("seed0", "--hand_over=copy") == 0
    copy = Path("for_vbench/videos/two dogs-0.mp4")
    assert not copy.is_symlink()
    assert copy.read_bytes() == Path("seed0/out-01.mp4").read_bytes()
    assert {path.name for path in Path("for_vbench").iterdir()} == {"videos", "videos.json"}


def test_the_number_in_the_name_is_the_line_of_the_prompt_whatever_the_order():
    prompts = [f"prompt {n}" for n in range(101)]
    Path("many").mkdir()
    one = torch.zeros(4, 3, 4, 6)
    for n in range(101):
        write_video(f"many/out-{n:03d}.mp4", one + n / 101)
    Path("prompts.txt").write_text("\n".join(prompts))
    assert hand("many") == 0
    target = Path("for_vbench/videos/prompt 100-0.mp4").resolve()
    assert target.name == "out-100.mp4"
    assert len(list(Path("for_vbench/videos").iterdir())) == 101


def test_one_prompt_needs_no_number():
    write("one/out.mp4", still(4))
    Path("prompts.txt").write_text("a boat")
    assert hand("one/out.mp4") == 0
    assert Path("for_vbench/videos/a boat-0.mp4").exists()


def test_a_prompt_that_occurs_twice_is_handed_over_once(capsys):
    generated("seed0", prompts=("a cat", "a dog", "a cat"))
    assert hand("seed0") == 0
    assert Path("for_vbench/videos/a cat-0.mp4").resolve().name == "out-00.mp4"
    assert "2 videos" in (printed := capsys.readouterr().out)
    assert "1 lines repeat a prompt" in printed


@pytest.mark.parametrize(
    ("prompts", "spoil", "message"),
    [
        (("a/b", "c"), None, "prompt 'a/b' has a '/'"),
        (("x" * 260, "c"), None, "makes a file name of 266 bytes, more than 255"),
        (("a", "b", "c"), lambda: Path("seed0/out-01.mp4").unlink(), "has no video of prompt 1"),
        (
            ("a", "b"),
            lambda: Path("prompts.txt").write_text("a\nb\nc\n"),
            r"has no video of prompt 2; there are 3 prompts \(0 to 2\) and 2 videos",
        ),
        (
            ("a", "b", "c"),
            lambda: Path("prompts.txt").write_text("a\nb\n"),
            "has a video of no prompt 2",
        ),
        (
            ("a", "b"),
            lambda: Path("seed0/out-01.mp4").rename("seed0/other.mp4"),
            "does not end in a prompt's number",
        ),
        (
            ("a", "b"),
            lambda: write("seed0/other-01.mp4", still(4)),
            "are of the same prompt; give one",
        ),
        (
            ("a", "b"),
            lambda: write("for_vbench/videos/z-0.mp4", still(4)),
            r"holds other things \('z-0.mp4'\)",
        ),
        (
            ("a", "b"),
            lambda: write("for_vbench/videos/a-0.mp4", still(4)),
            "'for_vbench/videos/a-0.mp4' is already there",
        ),
    ],
)
def test_what_does_not_fit_is_refused(prompts, spoil, message):
    generated("seed0", prompts=prompts)
    Path("for_vbench").mkdir()
    if spoil is not None:
        spoil()
    with pytest.raises(ValueError, match=message):
        hand("seed0")
    assert not Path("for_vbench/videos.json").exists()


@pytest.mark.parametrize("device", ["cuda:9", "warp"])
def test_a_device_that_is_not_there_is_one_sentence(device):
    write("a/x.mp4", pan(40))
    with pytest.raises(ValueError, match=f"`device` '{device}' cannot be used: .* CUDA devices"):
        main(["a/x.mp4", "--device", device, "--output", "never"])
    assert not Path("never").exists()
