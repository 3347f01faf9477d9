"""`plan` predicts what training and streaming take, and touches no file."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.__main__ import main
from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.cli.plan import CONTEXT_GB, plan_parser, predict, total_gb
from lightning_adastate.codecs import WanCodec
from lightning_adastate.losses import CriticLoss, DMDLoss, FlowMatchingLoss, SiDLoss
from lightning_adastate.memory.parts import Phase, Sizes, decoding, encoding, text_memory
from lightning_adastate.memory.passes import LiveBytes, Precision, tensor_bytes
from lightning_adastate.memory.phases import fit_phase
from lightning_adastate.memory.rollout import loss_memory
from lightning_adastate.memory.stand_ins import UMT5_XXL, UnreadWanCodec
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import config_root, resolve_arguments
from lightning_adastate.text import CachedEncoder, UMT5Encoder
from lightning_adastate.training import CausalFlowMatching, FlowMatching

# One of each stage and kind of rollout; planning a large one takes some ten seconds.
LARGE = ("causvid", "consistency", "longlive_long", "ode_init", "rolling_forcing")
OTHER_VERBS = {"compare", "compare_all", "pan_world", "trajectories"}
RECIPES = [
    *(
        f"toy/{path.stem}"
        for path in sorted((config_root() / "toy").glob("*.yaml"))
        if path.stem not in OTHER_VERBS
    ),
    *(f"wan1.3b/{name}" for name in LARGE),
]
QUICK = {"toy/adastate"}
WIDE = Precision("32-true")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import memory

    yield memory
    sys.modules.pop("memory", None)


def phases(*args: str) -> list[Phase]:
    import_families()
    parser = plan_parser()
    return predict(parser, parser.parse_args(resolve_arguments(args)))


def check(predicted: Phase, measured: int) -> None:
    """An upper bound but for what is beside networks, and not a loose one."""
    assert 0.95 * measured < predicted.total < 1.12 * measured


# -- against what tensors hold ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backward", "recompute", "precision"),
    [
        *(
            pytest.param(*options, marks=pytest.mark.slow)
            for options in (
                ("chunks", True, "32-true"),
                ("whole", False, "32-true"),
                ("whole", True, "bf16-mixed"),
                ("chunks", False, "bf16-mixed"),
                ("chunks", True, "bf16-true"),
            )
        ),
    ],
)
def test_a_self_forcing_step_takes_what_is_predicted(bench, backward, recompute, precision):
    check(*bench.fit(bench.self_forcing(backward, recompute), precision))


def test_streaming_takes_what_is_predicted(bench):
    check(*bench.generate(bench.self_forcing("whole", recompute=False), "32-true"))


@pytest.mark.slow
def test_gradients_that_wait_for_more_batches_are_counted(bench):
    check(*bench.fit(bench.self_forcing("chunks", recompute=True, accumulate=2), "32-true"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bidirectional", "teacher_forcing", "causal"])
def test_parallel_training_takes_what_is_predicted(bench, mode):
    stage = CausalFlowMatching if mode == "causal" else FlowMatching
    options = {} if mode == "causal" else {"mode": mode}
    module = stage(
        bench.network(4, recompute=False), **bench.parts(loss=FlowMatchingLoss(1.0), **options)
    )
    check(*bench.fit(module, "32-true"))


class Seen(Callback):
    """Bytes of weights and optimisers at the end."""

    def on_train_end(self, trainer, module):
        self.moments = [
            tensor_bytes(t for state in optimizer.state.values() for t in state.values())
            for optimizer in trainer.optimizers
        ]


def test_weights_and_moments_are_exact(tmp_path):
    module = self_forcing()
    module.setup("fit")
    predicted = fit_phase(copy.deepcopy(module), small(module), WIDE)
    seen = Seen()
    trainer(tmp_path, callbacks=[seen], limit_train_batches=1, limit_val_batches=0).fit(
        module, datamodule=ClipData()
    )
    weights = sum(line.size for line in predicted.resident if line.note == "weights" and line.size)
    assert weights == tensor_bytes([*module.parameters(), *module.buffers()])
    moments = [predicted.size_of(f"{name}'s optimiser") for name in ("generator", "critic")]
    assert moments == seen.moments


def small(module) -> Sizes:
    return Sizes(2, 1, module.codec.latent_shape(*module.frame_size), module.num_frames)


def test_gradients_stay_only_where_more_than_one_batch_makes_a_step():
    sizes = []
    for accumulate in (1, 2):
        module = self_forcing(anchor=StaticAnchor(1), backward="chunks", accumulate=accumulate)
        module.setup("fit")
        phase = fit_phase(module, small(module), WIDE)
        sizes.append(phase.size_of("generator's gradients") + phase.size_of("critic's gradients"))
    learn = sum(p.numel() for p in [*module.generator.parameters(), *module.critic.parameters()])
    assert sizes == [0, 4 * learn]


def test_an_offloaded_teacher_is_there_for_the_scores_alone():
    found = []
    for after in (False, True):
        module = self_forcing(anchor=StaticAnchor(1), backward="chunks", teacher_offload=after)
        module.setup("fit")
        found.append(fit_phase(module, small(module), WIDE))
    keep, offload = found
    teacher = keep.size_of("teacher")
    assert teacher == sum(4 * p.numel() for p in module.teacher.parameters())
    assert offload.size_of("teacher") == 0
    assert offload.size_of("scores") == keep.size_of("scores") + teacher
    said = next(each for each in keep.remedies if "offload" in each.option)
    assert said.saves == keep.total - offload.total


def test_processes_share_weights_gradients_and_moments():
    module = self_forcing()
    module.setup("fit")
    sizes = small(module)
    alone = fit_phase(module, sizes, WIDE)
    four = fit_phase(module, sizes.__class__(**{**vars(sizes), "processes": 4}), WIDE)
    for part in ("generator", "teacher", "critic's optimiser"):
        assert four.size_of(part) == alone.size_of(part) // 4
    assert four.size_of("gathered blocks") > 0


def test_a_loss_that_goes_through_the_networks_is_found():
    shape = (1, 3, 4, 4, 4)
    assert loss_memory(SiDLoss(), shape).through_networks
    assert not loss_memory(DMDLoss(), shape).through_networks
    assert not loss_memory(CriticLoss(), shape).through_networks


# -- components that are files ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_wans_vae_takes_what_a_real_one_does(path):
    autoencoder = pytest.importorskip("diffusers").AutoencoderKLWan
    small = UnreadWanCodec(path=path)
    sizes = {"base_dim": 8, "num_res_blocks": 1}
    with torch.device("meta"):
        small.vae = autoencoder(**sizes)
    shape, rows, frames = (16, 4, 6), 1, 3
    predicted = decoding(small, WIDE, shape, rows, frames)
    clips = encoding(small, WIDE, shape, rows, frames)
    real = copy.copy(small)
    real._modules = dict(small._modules)
    real._buffers = {name: torch.zeros(1, 1, 16, 1, 1) for name in small._buffers}
    real.vae = autoencoder(**sizes).eval()
    with LiveBytes() as live:
        _, memory = real.decode(torch.zeros(rows, frames, *shape), real.empty())
        held = live.now
        live.mark()
        latents = torch.zeros(rows, frames, *shape)
        real.decode(latents, memory)
        assert predicted.held == tensor_bytes(memory.values())
        assert predicted.work == pytest.approx(live.peak - held, rel=0.03)
    with LiveBytes() as live:
        real.encode(torch.zeros(rows, real.pixel_frames(frames), 3, 32, 48))
        assert clips == pytest.approx(live.peak, rel=0.03)


def test_wans_vae_has_all_its_weights_and_no_memory():
    pytest.importorskip("diffusers")
    codec = UnreadWanCodec(dtype="bfloat16")
    assert isinstance(codec, WanCodec)
    assert all(parameter.is_meta for parameter in codec.parameters())
    assert sum(p.numel() for p in codec.parameters()) == 126_892_531
    assert Precision("32-true").stored(codec.vae) == 2 * 126_892_531
    assert (codec.latent_channels, codec.spatial_stride, codec.temporal_stride) == (16, 8, 4)


def test_umt5_has_as_many_parameters_as_transformers_says():
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(
        vocab_size=256384,
        d_model=4096,
        d_ff=10240,
        d_kv=64,
        num_heads=64,
        num_layers=24,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        model = transformers.UMT5EncoderModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == UMT5_XXL


def test_an_encoder_that_leaves_is_not_counted_as_staying(tmp_path):
    stays = text_memory(UMT5Encoder("nowhere", after="keep"), WIDE)
    goes = text_memory(CachedEncoder(UMT5Encoder("nowhere"), folder=str(tmp_path)), WIDE)
    assert stays == (2 * UMT5_XXL, 0)
    assert goes == (0, 2 * UMT5_XXL)


# -- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_a_recipe_has_a_plan(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = phases("--config", recipe)
    assert found[0].name == "generate"
    assert all(phase.total > 0 for phase in found)
    assert not list(tmp_path.iterdir())


def test_files_are_neither_needed_nor_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    args = ["--config=toy/adastate", "--model.weights=nowhere.pt", "--phase=generate"]
    assert main(["plan", *args, "--device_memory=1"]) == 0
    printed = capsys.readouterr().out
    assert "fits into 1 GB" in printed
    assert "Not counted" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_what_does_not_fit_is_said_with_remedies_and_the_exit_code(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", "--config=toy/adastate", "--phase=fit", "--device_memory=0.61"]) == 1
    printed = capsys.readouterr().out
    assert "fit: does not fit into 0.61 GB" in printed
    assert "--model.ema_decay null saves" in printed
    assert "--shape.processes 8 (FSDP) saves" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_sizes_that_are_asked_for_count():
    args = ("--config=toy/adastate", "--phase=generate")
    (one,), (four,) = phases(*args), phases(*args, "--shape.streams=4", "--precision=bf16-true")
    assert four.size_of("window") == 2 * one.size_of("window")
    assert four.size_of("generator") == one.size_of("generator") // 2
    assert total_gb(one) == one.total / 1e9 + CONTEXT_GB


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
