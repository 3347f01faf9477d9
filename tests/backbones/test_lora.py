"""LoRA: nothing at first, only the adapter learns, merged equals unmerged, plain weights go in and out."""

import copy
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from training_toy import ClipData, backbone, self_forcing, trainer

from lightning_adastate.__main__ import main
from lightning_adastate.backbones import LoRABackbone
from lightning_adastate.files import save_tensors
from lightning_adastate.training.networks import build_network
from lightning_adastate.weights.loading import load_into

PAGE = Path(__file__).parent.parent.parent / "docs" / "lora.md"


def lora(seed=0, *, trained=False, **options):
    """The toy network with an adapter; a trained one changes the output."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LoRABackbone(backbone(seed), **{"rank": 3, "alpha": 6, **options})
        if trained:
            for tensor in model.adapter_weights().values():
                torch.nn.init.normal_(tensor, std=0.2)
    return model.eval()


def velocity(model):
    """Its output for fixed inputs, with a graph where there is one."""
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 3, 12, 2, 3, generator=draw)
    text = model.text_kv(torch.randn(2, 4, 8, generator=draw))
    timestep = torch.tensor([[900.0, 500.0, 20.0]]).expand(2, 3)
    return model(latents, timestep_BF=timestep, text=text).velocity_BFCHW


def difference(ours, theirs):
    return float((ours - theirs).abs().max().detach())


def split(module):
    """Copies of the frozen parameters and of the adapter's."""
    found = {name: p.detach().clone() for name, p in module.named_parameters()}
    return (
        {name: p for name, p in found.items() if ".lora_" not in name},
        {name: p for name, p in found.items() if ".lora_" in name},
    )


def test_as_built_it_computes_exactly_what_the_plain_backbone_does():
    assert torch.equal(velocity(lora()), velocity(backbone()))


def test_a_trained_adapter_merged_equals_it_unmerged_and_fits_a_plain_network(tmp_path):
    model = lora(trained=True)
    assert difference(velocity(model), velocity(backbone())) > 0.05
    save_tensors(tmp_path / "merged.safetensors", model.plain_copy().state_dict())
    plain = backbone(7)
    load_into(plain, tmp_path / "merged.safetensors")
    torch.testing.assert_close(velocity(plain), velocity(model), atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in model.plain_copy().parameters())


def test_the_scale_is_alpha_over_rank():
    model = lora(trained=True, alpha=6, targets=[r"blocks\.1\.ffn\.2"])
    down, up = (model.adapter_weights()[name] for name in sorted(model.adapter_weights()))
    merged = model.plain_copy().state_dict()["blocks.1.ffn.2.weight"]
    expected = backbone().state_dict()["blocks.1.ffn.2.weight"] + 6 / 3 * up @ down
    torch.testing.assert_close(merged, expected, atol=1e-6, rtol=0)


def test_plain_weights_are_loaded_into_the_backbone_and_leave_the_adapter(tmp_path):
    save_tensors(tmp_path / "plain.safetensors", backbone(5).state_dict())
    model = lora(trained=True)
    adapter = {name: tensor.clone() for name, tensor in model.adapter_weights().items()}
    load_into(model, tmp_path / "plain.safetensors")
    assert all(torch.equal(t, adapter[n]) for n, t in model.adapter_weights().items())
    fresh = lora()
    load_into(fresh, tmp_path / "plain.safetensors")
    assert torch.equal(velocity(fresh), velocity(backbone(5)))


def test_weights_that_do_not_fit_are_refused_under_their_own_names(tmp_path):
    weights = backbone().state_dict()
    del weights["blocks.1.ffn.2.weight"]
    save_tensors(tmp_path / "less.safetensors", weights)
    with pytest.raises(ValueError, match=r"1 missing \(blocks.1.ffn.2.weight"):
        load_into(lora(), tmp_path / "less.safetensors")


def test_only_matching_layers_are_adapted():
    model = lora(targets=[r"blocks\.\d+\.self_attn\.[qv]", r"head\.head"])
    names = [f"blocks.{i}.self_attn.{part}" for i in (0, 1) for part in "qv"]
    assert model.adapted == [*names, "head.head"]
    assert sum(p.requires_grad for p in model.parameters()) == 2 * 5


def test_thawing_and_freezing_touch_the_adapter_alone():
    model = lora()
    for wanted in (False, True):
        model.requires_grad_(wanted)
        asking = {name for name, p in model.named_parameters() if p.requires_grad}
        assert asking == (set(split(model)[1]) if wanted else set())


def test_recomputing_activations_gives_the_same_gradients():
    models = [lora(trained=True) for _ in range(2)]
    models[1].base.checkpoint_activations = True
    for model in models:
        velocity(model).square().sum().backward()
    for (name, ours), theirs in zip(
        models[1].named_parameters(), models[0].parameters(), strict=True
    ):
        assert (ours.grad is not None) == (".lora_" in name), name
        if ours.grad is not None:
            assert theirs.grad.abs().max() > 0
            torch.testing.assert_close(ours.grad, theirs.grad, atol=0, rtol=0)


def test_a_copy_shares_nothing():
    model = lora(trained=True)
    copied = copy.deepcopy(model)
    assert torch.equal(velocity(copied), velocity(model))
    before = velocity(model)
    for parameter in copied.parameters():
        parameter.data.add_(1.0)
    assert torch.equal(velocity(model), before)


def test_a_teacher_copied_from_an_adapted_generator_is_plain_with_the_adapter_merged(tmp_path):
    model = lora(trained=True)
    teacher = build_network(None, model, None)
    assert type(teacher) is type(backbone())
    torch.testing.assert_close(velocity(teacher), velocity(model), atol=1e-5, rtol=0)
    save_tensors(tmp_path / "teacher.safetensors", backbone(1).state_dict())
    teacher = build_network(None, model, str(tmp_path / "teacher.safetensors"))
    assert torch.equal(velocity(teacher), velocity(backbone(1)))


def test_an_adapter_is_saved_alone_and_read_back(tmp_path):
    model, path = lora(trained=True), tmp_path / "adapter.safetensors"
    save_tensors(path, model.adapter_weights())
    assert all(".lora_" in name for name in load_file(path))
    assert torch.equal(velocity(lora(adapter=str(path))), velocity(model))
    with pytest.raises(ValueError, match=r"has another shape \(rank\) of base_model.model.blocks"):
        lora(rank=2, adapter=str(path))
    with pytest.raises(ValueError, match="also has base_model"):
        lora(targets=[r"blocks\.0\..*"], adapter=str(path))


def test_peft_reads_our_adapter_and_we_read_pefts(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    ours = lora(trained=True)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=ours.adapted)
    get_peft_model(backbone(), config).save_pretrained(tmp_path)
    theirs = tmp_path / "adapter_model.safetensors"
    assert torch.equal(velocity(lora(adapter=str(theirs))), velocity(backbone()))
    save_file({n: t.contiguous() for n, t in ours.adapter_weights().items()}, theirs)
    read = PeftModel.from_pretrained(backbone(), tmp_path).base_model.model
    torch.testing.assert_close(velocity(read), velocity(ours), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "`rank` must be 1 or more, got 0"),
        ({"alpha": 0}, "`alpha` must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1"),
        (
            {"targets": ["blocks"]},
            "`targets` 'blocks' matches no linear layer; names are like text",
        ),
        ({"targets": []}, "`targets` is empty"),
        ({"adapter": "nowhere.safetensors"}, "cannot read an adapter from 'nowhere.safetensors'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lora(**options)
    with pytest.raises(ValueError, match="has an adapter already"):
        LoRABackbone(lora())


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-adastate\[lora\]'"):
        lora()


# -- training ---------------------------------------------------------------------------------------


def adapted_self_forcing(base=0, **options):
    """Generator and critic with adapters, a teacher with full weights."""
    model = self_forcing(critic=lambda: lora(2, **options), generator_interval=1)
    model.generator.backbone = lora(base, **options)
    model.generator_ema = copy.deepcopy(model.generator).requires_grad_(requires_grad=False)
    return model


def fit(folder, model, *, resume=None, epochs=1, **options):
    run = trainer(folder, max_epochs=epochs, **options)
    run.fit(model, ClipData(4, val_count=0), ckpt_path=resume, weights_only=True)
    return run


def test_self_forcing_moves_the_adapters_of_generator_and_critic_and_nothing_else(tmp_path):
    model = adapted_self_forcing()
    model.setup("fit")
    parts = {"generator": model.generator, "critic": model.critic, "average": model.generator_ema}
    before = {name: split(part) for name, part in parts.items()}
    teacher = {name: p.clone() for name, p in model.teacher.named_parameters()}
    assert not any(".lora_" in name for name in teacher)
    fit(tmp_path, model)
    for name, part in parts.items():
        frozen, adapter = split(part)
        assert all(torch.equal(p, before[name][0][n]) for n, p in frozen.items()), name
        moved = [n for n, p in adapter.items() if not torch.equal(p, before[name][1][n])]
        assert len(moved) >= 0.9 * len(adapter), (name, len(moved), len(adapter))
    assert all(torch.equal(p, teacher[n]) for n, p in model.teacher.named_parameters())
    for optimizer, part in zip(model.optimizers(), (model.generator, model.critic), strict=True):
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert stepped == {id(p) for n, p in part.named_parameters() if ".lora_" in n}


def test_the_average_of_an_adapter_equals_its_closed_form(tmp_path):
    model = adapted_self_forcing()
    start = split(model.generator)[1]
    fit(tmp_path, model, max_steps=1)
    average, live = split(model.generator_ema)[1], split(model.generator)[1]
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, 0.5 * start[name] + 0.5 * live[name])


def half_trained(folder, **options):
    """A checkpoint of the first of two epochs."""
    saves = ModelCheckpoint(folder, "half", every_n_epochs=1, save_top_k=1)
    model = adapted_self_forcing(**options)
    fit(folder, model, callbacks=[saves], enable_checkpointing=True)
    return folder / "half.ckpt"


@pytest.mark.parametrize("checkpoints", ["whole", "adapter"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, checkpoints):
    whole, second = (adapted_self_forcing(checkpoints=checkpoints) for _ in range(2))
    fit(tmp_path, whole, epochs=2)
    path = half_trained(tmp_path, checkpoints=checkpoints)
    names = torch.load(path, weights_only=True)["state_dict"]
    assert any("base_layer" in name for name in names) == (checkpoints == "whole")
    for name, parameter in second.generator.named_parameters():
        if checkpoints == "whole" or ".lora_" in name:
            parameter.data.add_(1.0)
    fit(tmp_path, second, resume=path, epochs=2)
    ours, theirs = second.generator.backbone.base, whole.generator.backbone.base
    assert [
        n for n, t in theirs.state_dict().items() if not torch.equal(ours.state_dict()[n], t)
    ] == []
    ours, theirs = second.state_dict(), whole.state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_an_adapters_checkpoint_is_refused_over_other_frozen_weights(tmp_path):
    path = half_trained(tmp_path, checkpoints="adapter")
    other = adapted_self_forcing(base=1, checkpoints="adapter")
    with pytest.raises(ValueError, match="was trained on other frozen weights"):
        fit(tmp_path, other, resume=path, epochs=2)


def test_an_adapters_checkpoint_is_an_adapter_and_no_weights(tmp_path):
    path = half_trained(tmp_path, checkpoints="adapter")
    saved = torch.load(path, weights_only=True)["state_dict"]
    read = lora(adapter=str(path)).base.state_dict()
    prefix = "generator_ema.backbone.base."
    adapter = {n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)}
    assert all(torch.equal(read[name], tensor) for name, tensor in adapter.items())
    assert len(adapter) == 40
    with pytest.raises(ValueError, match="holds an adapter alone: give it as the backbone's"):
        load_into(lora(), path)
    torch.save({"state_dict": {"critic.x": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="holds no adapter of a generator"):
        lora(adapter=str(path))


def test_a_training_checkpoint_brings_its_adapter_along(tmp_path):
    model = adapted_self_forcing()
    run = fit(tmp_path, model)
    run.save_checkpoint(tmp_path / "run.ckpt")
    read = lora(9)
    load_into(read, tmp_path / "run.ckpt")
    assert torch.equal(velocity(read), velocity(model.generator_ema.backbone))
    assert difference(velocity(read), velocity(backbone())) > 1e-4
    with pytest.raises(ValueError, match="do not fit WanTransformer"):
        load_into(backbone(), tmp_path / "run.ckpt")


def test_the_pages_python_runs_and_its_command_parses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    exec(compile(blocks["python"], str(PAGE), "exec"), {})  # noqa: S102
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter.safetensors",
        "merged.safetensors",
    }
    words = shlex.split(blocks["bash"].replace("\\\n", " "))[3:]
    assert main([*words, "--print_config"]) == 0, capsys.readouterr().err
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert [
        model[name]["class_path"].rpartition(".")[2] for name in ("backbone", "critic", "teacher")
    ] == ["LoRABackbone", "LoRABackbone", "WanTransformer"]
    recipe = yaml.safe_load(blocks["yaml"])["model"]["init_args"]
    for part in (recipe["backbone"], recipe["critic"]):
        sizes = {name: part["init_args"][name] for name in ("rank", "alpha")}
        assert sizes == {"rank": 256, "alpha": 256}
        lora(**sizes)


def test_adapters_alone_are_not_saved_while_weights_are_spread(monkeypatch):
    model = LoRABackbone(backbone(1), rank=2, checkpoints="adapter")
    monkeypatch.setattr("lightning_adastate.backbones.lora.is_sharded", lambda tensor: True)
    with pytest.raises(ValueError, match="`checkpoints: adapter` cannot be saved .* ddp"):
        model.base_checksum()
