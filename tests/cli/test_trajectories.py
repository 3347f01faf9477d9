"""trajectories: what is made, what is skipped, what is refused; and that ODERegression trains on it."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_toy import FRAME_SIZE, backbone, parts

from lightning_adastate.__main__ import main
from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.data import TrajectoryData, VideoFolderData
from lightning_adastate.data.trajectory_shards import read_header
from lightning_adastate.files import save_tensors
from lightning_adastate.generation.trajectories import make_trajectories
from lightning_adastate.generation.trajectory_plan import Making, Source
from lightning_adastate.media.reading import read_video
from lightning_adastate.media.video import write_video
from lightning_adastate.training import StreamModule
from lightning_adastate.weights.fingerprint import weights_fingerprint

SMALL = """\
--config=toy/trajectories --model.weights=weights.safetensors --model.backbone.num_layers=1 --data.num_clips=8
--data.video_frames=9 --data.clip_frames=9 --data.cache_folder=clips --num_clips=5 --ode_steps=4
--batch_size=2 --output=made --device=cpu
""".split()  # noqa: SIM905
TOY = {"in_channels": 12, "freq_dim": 64, "text_dim": 32, "text_tokens": 8}
FILES = [f"trajectories-{first:08d}.safetensors" for first in (0, 2, 4)]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    for seed, name in enumerate(("weights", "others")):
        torch.manual_seed(seed)
        toy = WanTransformer(64, ffn_dim=256, num_heads=4, num_layers=1, **TOY)
        torch.nn.init.normal_(toy.head.head.weight, std=0.1)
        save_tensors(f"{name}.safetensors", toy.state_dict())
    return tmp_path


def module(**options):
    options = {"anchor": StaticAnchor(0), **options}
    return StreamModule(backbone(), **parts(**options)).eval()


def made(making, data=None, **options):
    """Make trajectories in Python and return all tensors of all files, joined."""
    model = module(**options)
    assert make_trajectories(model, making, Source(model, making, data)) == 0
    files = [load_file(path) for path in sorted(making.folder.iterdir())]
    names = {name for file in files for name in file if name != "sigmas"}
    return {name: torch.cat([file[name] for file in files]) for name in names}


def making(**options):
    defaults = {"output": "made", "ode_steps": 4, "shift": 1.0, "storage": "float32"}
    return Making(**{**defaults, **options})


# -- what is made -----------------------------------------------------------------------------------------


def test_the_command_makes_files_that_the_data_module_reads(capsys):
    assert main(["trajectories", *SMALL]) == 0
    assert "5 trajectories made; 'made' has 3 of 3 files" in capsys.readouterr().out
    assert sorted(path.name for path in Path("made").iterdir()) == FILES
    header = read_header(Path("made") / FILES[1])
    assert header.sigmas == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert all("drifting" in prompt for prompt in header.prompts)
    data = TrajectoryData("made", batch_size=2)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["latents"].shape == (2, 5, 9, 12, 4, 8)
    assert torch.equal(batch["latents"][:, 0, :3], batch["latents"][:, -1, :3]), "given frames"
    assert not torch.equal(batch["latents"][:, 0, 3:], batch["latents"][:, -1, 3:])


def test_what_is_there_is_not_made_again(capsys):
    main(["trajectories", *SMALL])
    before = {name: (Path("made") / name).stat() for name in FILES}
    lost = (Path("made") / FILES[1]).read_bytes()
    (Path("made") / FILES[1]).unlink()
    capsys.readouterr()
    assert main(["trajectories", *SMALL]) == 0
    assert "2 trajectories made" in capsys.readouterr().out
    assert (Path("made") / FILES[1]).read_bytes() == lost
    for name in (FILES[0], FILES[2]):
        assert (Path("made") / name).stat().st_mtime_ns == before[name].st_mtime_ns


def test_a_stop_finishes_the_batch_at_work_and_the_same_command_goes_on():
    class Interrupted(Source):
        def prompts(self, rows):
            if rows[0] == 2:
                signal.raise_signal(signal.SIGINT)
            return super().prompts(rows)

    Path("prompts.txt").write_text("".join(f"clip {i}\n" for i in range(8)))
    asked = making(prompts="prompts.txt", num_frames=3, batch_size=2)
    model = module()
    assert make_trajectories(model, asked, Interrupted(model, asked, None)) == 130
    assert [path.name for path in sorted(Path("made").iterdir())] == FILES[:2]
    assert made(asked)["latents"].shape[0] == 8


def test_processes_share_the_work():
    Path("prompts.txt").write_text("".join(f"clip {i}\n" for i in range(5)))
    options = {"prompts": "prompts.txt", "num_frames": 2}
    alone = made(making(**options, output="alone"))["latents"]
    for part in (1, 0):
        made(making(**options, part=part, num_parts=2))
        assert len(list(Path("made").iterdir())) == (2 if part else 5)
    together = made(making(**options))["latents"]
    assert torch.equal(alone, together)


def test_noise_belongs_to_the_clip_and_not_to_the_batch():
    options = {"prompts": "a prompt", "num_clips": 3, "num_frames": 2}
    one = made(making(**options, output="one"))["latents"]
    three = made(making(**options, output="three", batch_size=3))["latents"]
    torch.testing.assert_close(one, three, rtol=0, atol=1e-5)
    assert not torch.equal(one[0, 0], one[1, 0])
    other = made(making(**options, output="other", seed=1))["latents"]
    assert not torch.equal(one[0, 0], other[0, 0])


def test_the_states_are_the_eulers_steps_of_the_teacher():
    latents = made(making(prompts="a b", num_frames=2, ode_steps=2))["latents"]
    model = module()
    x = latents[:, 0]
    text = model.streamer.backbone.text_kv(model.encode_text(["a b"]))
    with torch.no_grad():
        for index, sigma in enumerate((1.0, 0.5)):
            torch.testing.assert_close(latents[:, index], x, rtol=0, atol=1e-5)
            times = torch.full((1, 2), 1000 * sigma)
            velocity = model.streamer.backbone(x, timestep_BF=times, text=text).velocity_BFCHW
            x = x - 0.5 * velocity
    torch.testing.assert_close(latents[:, -1], x, rtol=0, atol=1e-5)


def test_guidance_changes_the_path():
    options = {"prompts": "a b", "num_frames": 2}
    plain = made(making(**options, output="plain"))["latents"]
    guided = made(making(**options, guidance=4.0, negative_prompt="nothing"))["latents"]
    assert torch.equal(plain[:, 0], guided[:, 0])
    assert not torch.allclose(plain[:, -1], guided[:, -1], atol=1e-3)


def clip_data(folder, inverted_frame=None):
    """Four clips of five random frames, the same but for one frame."""
    for index in range(4):
        generator = torch.Generator().manual_seed(index)
        video = torch.randint(0, 256, (5, 3, *FRAME_SIZE), generator=generator, dtype=torch.uint8)
        if inverted_frame is not None:
            video[inverted_frame] = 255 - video[inverted_frame]
        path = Path(folder) / f"{index}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, video, quality="lossless")
        path.with_suffix(".txt").write_text(f"clip {index}")
    height, width = FRAME_SIZE
    return VideoFolderData(folder, clip_frames=5, height=height, width=width, val_fraction=0.0)


def test_a_teacher_forcing_teacher_sees_the_clean_past_and_its_clips_are_kept():
    """A changed frame changes what comes after it, and nothing before or at its own place."""
    first = made(making(teacher="teacher_forcing", batch_size=2), clip_data("clips"))
    assert first["latents"].shape == (4, 3, 5, 12, 2, 3)
    video = torch.stack([read_video(Path("clips") / f"{i}.mp4") for i in range(4)]) / 255.0
    assert torch.equal(first["context"], module().codec.encode(video))
    other = made(making(teacher="teacher_forcing", output="other"), clip_data("inverted", 2))
    ends, others = first["latents"][:, -1], other["latents"][:, -1]
    torch.testing.assert_close(ends[:, :3], others[:, :3], rtol=0, atol=1e-5)
    assert not torch.allclose(ends[:, 3], others[:, 3], atol=1e-4)


@pytest.mark.parametrize("reads", ["window", "all"])
def test_the_teacher_sees_the_window_or_everything(reads):
    """A window of 2 frames: frame 3 sees frame 2 alone, and no layer reaches further back than its keys."""
    options = {"teacher": "teacher_forcing", "reads": reads}
    ends = [
        made(making(**options, output=f"made{frame}"), clip_data(f"clips{frame}", frame))
        for frame in (None, 0)
    ]
    same = torch.equal(ends[0]["latents"][:, -1, 4], ends[1]["latents"][:, -1, 4])
    assert same == (reads == "window")


def test_given_frames_are_the_real_clips_and_the_clips_are_not_kept():
    files = made(making(context_frames=1), clip_data("clips"))
    assert set(files) == {"latents"}
    video = torch.stack([read_video(Path("clips") / f"{i}.mp4") for i in range(4)]) / 255.0
    given = module().codec.encode(video)[:, :1]
    assert torch.equal(files["latents"][:, :, :1], given[:, None].expand(-1, 3, -1, -1, -1, -1))


# -- what is refused ----------------------------------------------------------------------------------------


def test_files_of_other_settings_are_not_mixed(capsys):
    main(["trajectories", *SMALL])
    for option, said in (
        ("--seed=1", "made with seed 0, now it is 1"),
        ("--ode_steps=8", "made with ode_steps 4, now it is 8"),
        ("--model.schedule.steps=[1000,500]", "made with schedule "),
        ("--model.weights=others.safetensors", "made with weights "),
    ):
        capsys.readouterr()
        assert main(["trajectories", *SMALL, option]) == 1
        assert said in capsys.readouterr().err


def test_other_weights_have_another_mark():
    assert weights_fingerprint(backbone(0)) == weights_fingerprint(backbone(0))
    assert weights_fingerprint(backbone(0)) != weights_fingerprint(backbone(1))


MISTAKES = {
    "both": (["--prompts=a"], "give either `prompts` or `data`"),
    "neither": (["--data=null"], "give either `prompts` or `data`"),
    "clips": (["--data=null", "--prompts=a"], "`context_frames` needs real clips"),
    "length": (
        ["--data=null", "--prompts=a", "--context_frames=0"],
        "give `num_frames` with `prompts`",
    ),
    "no chunks": (["--data.clip_frames=8"], "8 latent frames are not chunks of 3 + n x 3"),
    "half given": (["--context_frames=2"], "2 latent frames are not chunks of 3 + n x 3"),
    "guidance": (["--guidance=6"], "`guidance` 6.0 needs a `negative_prompt`"),
    "steps": (["--ode_steps=0"], "`ode_steps` must be 1 or more, got 0"),
    "shift": (["--shift=0"], "`shift` must be positive, got 0.0"),
    "part": (["--part=2", "--num_parts=2"], "`part` must be from 0 to `num_parts` - 1 = 1, got 2"),
    "folder": (["--output=file/made"], "cannot make the folder 'file/made'"),
    "key": (["--stps=3"], "stps"),
    "weights": (["--model.weights=none.safetensors"], "there is no weights file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistake, capsys):
    args, expected = MISTAKES[mistake]
    Path("file").touch()
    assert main(["trajectories", *SMALL, *args]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert not Path("made").exists()


# -- the whole way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame_wise",
    [
        pytest.param(False, marks=pytest.mark.slow),
        pytest.param(True, marks=pytest.mark.nightly),
    ],
)
def test_the_recipes_run_from_trajectories_to_a_stream(frame_wise):
    chunk = ["--model.schedule.chunk_frames=1"] if frame_wise else []
    size = ["--model.backbone.num_layers=1", "--model.weights=weights.safetensors"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    causal = ["--teacher=teacher_forcing", "--reads=window", "--output=causal"]
    ways = {"made": "toy/ode", "causal": "toy/causal_ode"}
    assert main(["trajectories", *SMALL, *chunk]) == 0
    assert main(["trajectories", *SMALL, *chunk, *causal]) == 0
    for folder, recipe in ways.items():
        where = [
            f"--data.folder={folder}",
            "--data.batch_size=2",
            f"--trainer.logger.name={folder}",
        ]
        args = [*size, *chunk, *quiet, *where, "--trainer.max_steps=2"]
        assert main(["fit", f"--config={recipe}", *args]) == 0
        (last,) = Path("runs").glob(f"{folder}/version_*/checkpoints/last.ckpt")
        assert main(["validate", f"--config={recipe}", *args[:-1], f"--ckpt_path={last}"]) == 0
        seen = [f"--ckpt_path={last}", f"--prediction.folder={folder}-videos"]
        assert main(["predict", f"--config={recipe}", *args[:-1], *seen]) == 0
        stream = ["--generation.prompts=drifting slowly west", "--generation.num_chunks=2"]
        film = [f"--generation.output={folder}.mp4", f"--generation.weights={last}"]
        asked = ["generate", f"--config={recipe}", *size[:1], *chunk, *stream, *film]
        assert main([*asked, "--trainer.accelerator=cpu"]) == 0
        assert Path(f"{folder}.mp4").stat().st_size
