"""`plan` predicts what training and streaming take, and touches no file."""

import copy

import pytest
import torch

from lightning_adastate.__main__ import main
from lightning_adastate.codecs import WanCodec
from lightning_adastate.codecs.latent_scale import LatentScale
from lightning_adastate.memory import Phase, Shape, plan
from lightning_adastate.memory.hollow import rehearsing
from lightning_adastate.memory.live import LiveBytes, tensor_bytes
from lightning_adastate.memory.planning import CONTEXT_GB, total_gb
from lightning_adastate.memory.rehearsal import settle
from lightning_adastate.memory.stand_ins import UMT5_XXL, UnreadEncoder, UnreadWanCodec

# One of each stage and kind of rollout; planning a large one takes some ten seconds.
LARGE = ("causvid", "consistency", "longlive_long", "ode_init", "rolling_forcing")
TOYS = ("adastate", "causal", "continued", "noised_data", "ode", "teacher")


@pytest.mark.parametrize(
    "recipe",
    [
        "toy/ode",
        *(pytest.param(f"toy/{name}", marks=pytest.mark.slow) for name in TOYS),
        *(pytest.param(f"wan1.3b/{name}", marks=pytest.mark.nightly) for name in LARGE),
    ],
)
def test_a_recipe_has_a_plan_and_leaves_no_file(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate, fit = plan(recipe, overrides=["--model.weights=nowhere.pt"])
    assert (generate.name, fit.name) == ("generate", "fit")
    assert 0 < generate.total < fit.total
    assert not list(tmp_path.iterdir())


def only(phase, *overrides, **options) -> Phase:
    (found,) = plan("toy/teacher", overrides=overrides, phase=phase, **options)
    return found


def test_sizes_that_are_asked_for_count():
    one = only("generate")
    four = only("generate", shape=Shape(streams=4), precision="bf16-true")
    assert four.size_of("generator") == one.size_of("generator") // 2
    assert 1.5 < four.size_of("stream") / one.size_of("stream") < 2.1
    assert total_gb(one) == one.total / 1e9 + CONTEXT_GB
    large = only("fit", shape=Shape(batch_size=1, num_frames=6, frame_size=(64, 64)))
    small = only("fit", shape=Shape(batch_size=1, num_frames=6, frame_size=(32, 64)))
    assert 1.8 < large.largest.size / small.largest.size < 4.0


def test_processes_share_weights_gradients_and_moments():
    alone, four = only("fit"), only("fit", shape=Shape(processes=4))
    for part in ("generator", "generator's optimiser"):
        assert four.size_of(part) == alone.size_of(part) // 4
    assert four.size_of("optimiser step") <= alone.size_of("optimiser step") // 4 + 1
    assert four.size_of("gathered blocks") > 0
    assert four.largest.size == alone.largest.size  # activations


def test_what_does_not_fit_is_said_with_remedies_and_the_exit_code(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", "--config=toy/teacher", "--phase=fit", "--device_memory=0.6001"]) == 1
    printed = capsys.readouterr().out
    assert "fit: does not fit into 0.6001 GB" in printed
    assert "--model.ema_decay null saves" in printed
    assert "--shape.processes 8 (FSDP) saves" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert main(["plan", "--config=toy/teacher", "--phase=generate", "--device_memory=1"]) == 0
    printed = capsys.readouterr().out
    assert "fits into 1 GB" in printed
    assert "Not counted" in printed


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "`plan` needs a recipe"),
        (["--config=toy/adastate", "--precision=fp8"], "got 'fp8'"),
        (
            ["--config=toy/adastate", "--shape.streams=0"],
            "`shape.streams` must be 1 or more, got 0",
        ),
        (["--config=toy/adastate", "--shape.num_frames=-3"], "`shape.num_frames` must be"),
        (["--config=toy/adastate", "--device_memory=0"], "`device_memory` must be positive"),
        (["--config=wan1.3b/memrope", "--phase=fit"], "only streams; use `--phase generate`"),
        (["--config=toy/adastate", "--shape.frame_size=[7, 16]"], "7"),
        (["--config=toy/trajectories"], "there is no option"),
    ],
)
def test_a_mistake_is_one_sentence(args, sentence, capsys):
    assert main(["plan", *args]) in (1, 2)
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_an_unknown_recipe_is_refused_from_python():
    with pytest.raises(ValueError, match="there is no config 'nowhere'"):
        plan("nowhere")


# -- components that are files ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_wans_vae_takes_what_a_real_one_does(path):
    autoencoder = pytest.importorskip("diffusers").AutoencoderKLWan
    small = UnreadWanCodec(path=path)
    sizes = {"base_dim": 8, "num_res_blocks": 1}
    real = copy.copy(small)
    real._modules = {**small._modules, "scale": LatentScale([0.0] * 16, [1.0] * 16)}
    real.vae = autoencoder(**sizes).eval()
    with torch.device("meta"):
        small.vae = autoencoder(**sizes)
    found = []
    for codec, counting in ((small, rehearsing()), (real, LiveBytes())):
        with counting as live:
            if codec is small:
                settle(codec, live)
            before = live.now
            live.mark()
            _, memory = codec.decode(torch.zeros(1, 3, 16, 4, 6), codec.empty())
            codec.decode(torch.zeros(1, 3, 16, 4, 6), memory)
            decoding, held = live.peak - before, tensor_bytes(memory.values())
            live.mark()
            codec.encode(torch.zeros(1, codec.pixel_frames(3), 3, 32, 48))
            found.append((decoding, held, live.peak - live.now))
    assert found[0][1] == found[1][1]
    assert found[0] == pytest.approx(found[1], rel=0.03)


def test_wans_vae_has_all_its_weights_and_no_memory():
    pytest.importorskip("diffusers")
    codec = UnreadWanCodec(dtype="bfloat16")
    assert isinstance(codec, WanCodec)
    assert all(parameter.is_meta for parameter in codec.parameters())
    assert sum(p.numel() for p in codec.parameters()) == 126_892_531
    assert tensor_bytes(codec.vae.parameters()) == 2 * 126_892_531
    assert (codec.latent_channels, codec.spatial_stride, codec.temporal_stride) == (16, 8, 4)


def test_umt5_is_as_large_as_it_is():
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(
        vocab_size=256_384,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        model = transformers.UMT5EncoderModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == UMT5_XXL


@pytest.mark.parametrize("stays", [False, True])
def test_an_encoder_is_there_while_it_encodes_or_always(stays):
    encoder = UnreadEncoder(stays=stays)
    with rehearsing() as live:
        settle(encoder, live)
        weights = 2 * UMT5_XXL
        assert live.now == (weights if stays else 0)
        made = encoder(["a prompt"])
        assert live.now == (weights if stays else 0) + tensor_bytes([made])
        assert weights <= live.peak <= weights + tensor_bytes([made])
