"""bf16-mixed: float32 master weights, and gradients and later passes that see the weights as they are."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import AdamW
from training_toy import ClipData, backbone, self_forcing, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.training.optimization import build_optimizer


class Gradients(Callback):
    """Keeps the generator's first gradients."""

    def __init__(self):
        self.found = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if not self.found:
            named = pl_module.generator.named_parameters()
            self.found = {name: parameter.grad.clone() for name, parameter in named}


def fit(path, precision, callbacks=(), **options):
    torch.manual_seed(0)
    model = self_forcing(exit_step="last", generator_interval=1, anchor=StaticAnchor(0), **options)
    trainer(path, precision=precision, callbacks=list(callbacks)).fit(
        model, ClipData(4, val_count=0)
    )
    return model


@pytest.mark.parametrize("backward", ["whole", "chunks"])
def test_mixed_gradients_are_the_full_ones_to_rounding(tmp_path, backward):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        seen = Gradients()
        fit(tmp_path, precision, [seen], backward=backward)
        found.append(seen.found)
    assert len(found[0]) > 50
    for name, full in found[0].items():
        near = torch.cosine_similarity(full.flatten(), found[1][name].flatten(), dim=0)
        assert near > 0.995, name


def test_weights_moments_and_average_stay_float32_in_mixed_precision(tmp_path):
    model = fit(tmp_path, "bf16-mixed")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for optimizer in model.optimizers(use_pl_optimizer=False):
        moments = [state["exp_avg"] for state in optimizer.state.values()]
        assert moments
        assert {moment.dtype for moment in moments} == {torch.float32}


def test_a_pass_after_a_step_sees_the_weights_after_it():
    layer = torch.nn.Linear(4, 4, bias=False)
    optimizer = build_optimizer(layer.parameters(), partial(AdamW, lr=1.0))["optimizer"]
    x = torch.ones(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = layer(x)
        before.sum().backward()
        optimizer.step()
        assert not torch.equal(layer(x), before)


def test_keys_queries_and_values_are_of_one_dtype_under_autocast():
    """Otherwise no named kernel takes them, and every layer casts the cache."""
    model = backbone()
    text = torch.randn(1, 4, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        kv = model.text_kv(text)
        out = model(
            torch.randn(1, 2, 12, 2, 3),
            timestep_BF=torch.zeros(1, 2),
            text=kv,
            return_kv=True,
            return_query=True,
        )
    half = {out.kv.key_LBFTND.dtype, out.kv.value_LBFTND.dtype, out.query_LBFTND.dtype}
    assert half | {kv.key_LBSND[0].dtype, kv.value_LBSND[0].dtype} == {torch.bfloat16}


def test_scaled_gradients_are_refused(tmp_path):
    """Our stages step by themselves: nobody would unscale before the norm is clipped."""
    with pytest.raises(ValueError, match="use bf16-mixed"):
        fit(tmp_path, "16-mixed", callbacks=[Scales()])


class Scales(Callback):
    """Gives the trainer, which has no scaler on a CPU, the one that it has on a GPU."""

    def setup(self, trainer, pl_module, stage):
        trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu")
