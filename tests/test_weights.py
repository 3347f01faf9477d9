"""Every format people have, written as they are written, loads into the same backbone."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, golden_backbone

from lightning_adastate.__main__ import main
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.recipes.loading import load_module
from lightning_adastate.weights.files import WeightFiles
from lightning_adastate.weights.loading import compare_weights, load_into, load_weights
from lightning_adastate.weights.names import strip, to_diffusers, to_wan

CONFIGS = GOLDEN.parent.parent / "configs" / "backbones"
SIZES = {"wan1.3b": 1_418_996_800, "wan14b": 14_288_491_584}


@pytest.fixture
def model():
    return golden_backbone()


def sizes(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["init_args"]


def saved(model, prefix=""):
    return {f"{prefix}{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def shards(folder, weights, count=3):
    """Wan 14B's and diffusers' way: shards and an index."""
    folder.mkdir(parents=True)
    names = sorted(weights)
    where = {}
    for index in range(count):
        file = f"diffusion_pytorch_model-{index + 1:05d}-of-{count:05d}.safetensors"
        part = {name: weights[name] for name in names[index::count]}
        save_file(part, folder / file)
        where.update(dict.fromkeys(part, file))
    index_file = folder / "diffusion_pytorch_model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write(kind, path, model):
    """Write weights in one of the known formats and return where they are."""
    wan, fsdp = saved(model), "model._fsdp_wrapped_module."
    renamed = {to_diffusers(name): tensor for name, tensor in wan.items()}
    path.mkdir()
    if kind == "file":
        save_file(wan, path / "x.safetensors")
        return path / "x.safetensors"
    if kind == "folder":
        save_file(wan, path / "diffusion_pytorch_model.safetensors")
        (path / "config.json").write_text("{}")
        return path
    if kind == "shards":
        shards(path / "wan", wan)
        return path / "wan"
    if kind == "diffusers":
        save_file(renamed, path / "diffusion_pytorch_model.safetensors")
        return path
    if kind == "unindexed":
        shards(path / "wan", wan)
        (path / "wan" / "diffusion_pytorch_model.safetensors.index.json").unlink()
        return path / "wan"
    if kind == "variants":
        save_file(wan, path / "diffusion_pytorch_model.safetensors")
        save_file(wan, path / "diffusion_pytorch_model.fp16.safetensors")
        return path
    if kind == "pipeline":
        shards(path / "pipe" / "transformer", renamed, 2)
        return path / "pipe"
    worse = {name: tensor + 1 for name, tensor in saved(model, "model.").items()}
    content = {
        "generator": {"generator": saved(model, "model.")},
        "generator_ema": {
            "generator": worse,
            "generator_ema": saved(model, fsdp),
            "critic": worse,
            "step": 3,
        },
        "model": {"model": saved(model, "module."), "critic": worse, "teacher": worse},
        "flat": wan,
        "compiled": saved(model, "_orig_mod."),
        "comfy": saved(model, "model.diffusion_model."),
        "critic": {"critic": saved(model, "model.")},
        "both_wrapped": {"generator": saved(model, "module.model._orig_mod.")},
        "fabric": {"state_dict": saved(model, "_forward_module.model.")},
        "old": wan,
    }[kind]
    torch.save(content, path / "x.pt", _use_new_zipfile_serialization=kind != "old")
    return path / "x.pt"


KINDS = [
    "file",
    "folder",
    "shards",
    "diffusers",
    "pipeline",
    "generator",
    "generator_ema",
    "model",
]
KINDS += ["flat", "compiled", "comfy", "critic", "both_wrapped", "fabric", "old", "unindexed"]
KINDS += ["variants"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_known_format_loads_bit_for_bit(kind, model, tmp_path):
    path = write(kind, tmp_path / "in", model)
    fresh = golden_backbone(1)
    load_into(fresh, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


@pytest.mark.parametrize("to", ["wan", "diffusers", "self_forcing"])
@pytest.mark.parametrize("kind", ["shards", "diffusers", "generator_ema"])
def test_converting_there_and_back_changes_no_bit(kind, to, model, tmp_path, capsys):
    source = write(kind, tmp_path / "in", model)
    target = tmp_path / ("out.pt" if to == "self_forcing" else "out")
    few = ["--num_heads=4", "--shard_gb=0.0003"]
    assert main(["convert", str(source), str(target), f"--to={to}", *few]) == 0
    assert f"written to {target}: {len(model.state_dict())} tensors" in capsys.readouterr().out
    back = load_weights(target)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    if to != "self_forcing":
        assert len(list(target.glob("*.safetensors"))) > 1
        config = json.loads((target / "config.json").read_text())
        assert config["num_layers"] == 2
    assert {p.name for p in tmp_path.iterdir()} == {"in", target.name}


def test_diffusers_reads_what_we_write_and_computes_the_same(model, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    source = write("file", tmp_path / "in", model)
    target = tmp_path / "out"
    assert main(["convert", str(source), str(target), "--to=diffusers", "--num_heads=4"]) == 0
    theirs = diffusers.WanTransformer3DModel.from_pretrained(target).eval()
    latents, text = torch.randn(1, 2, 16, 4, 6), torch.randn(1, 16, 48)
    with torch.no_grad():
        expected = theirs(latents.transpose(1, 2), torch.tensor([500.0]), text)[0]
        out = model(latents, timestep_BF=torch.full((1, 2), 500.0), text=model.text_kv(text))
    torch.testing.assert_close(out.velocity_BFCHW, expected.transpose(1, 2), rtol=0, atol=1e-4)


def test_what_diffusers_saves_loads_and_computes_the_same(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    ).eval()
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    ours = WanTransformer(
        24, ffn_dim=32, num_heads=2, num_layers=3, freq_dim=16, text_dim=32, text_tokens=7
    )
    load_into(ours, tmp_path)
    latents, text = torch.randn(1, 2, 16, 4, 6), torch.randn(1, 7, 32)
    with torch.no_grad():
        expected = theirs(latents.transpose(1, 2), torch.tensor([500.0]), text)[0]
        out = ours(latents, timestep_BF=torch.full((1, 2), 500.0), text=ours.text_kv(text))
    torch.testing.assert_close(out.velocity_BFCHW, expected.transpose(1, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_of_the_full_models_are_those_of_diffusers(size):
    """Both built on the meta device: every tensor of Wan 2.1 T2V is there, with its shape."""
    diffusers = pytest.importorskip("diffusers")
    options = sizes(size)
    with torch.device("meta"):
        ours = WanTransformer(**options).state_dict()
        theirs = diffusers.WanTransformer3DModel(
            num_attention_heads=options["num_heads"],
            attention_head_dim=128,
            ffn_dim=options["ffn_dim"],
            num_layers=options["num_layers"],
        ).state_dict()
    expected = {to_wan(name): tuple(tensor.shape) for name, tensor in theirs.items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == expected
    assert sum(tensor.numel() for tensor in ours.values()) == SIZES[size]


def test_names_go_to_diffusers_and_back():
    names = list(golden_backbone().state_dict())
    assert [to_wan(to_diffusers(name)) for name in names] == names
    assert not set(names) & {to_diffusers(n) for n in names if not n.startswith("patch_")}


def test_what_does_not_fit_is_reported_without_touching_the_model(model, tmp_path):
    weights = saved(model)
    del weights["head.head.bias"]
    weights["vace_blocks.0.weight"] = torch.zeros(1)
    weights["blocks.0.modulation"] = torch.zeros(1, 6, 5)
    save_file(weights, tmp_path / "x.safetensors")
    fresh, before = golden_backbone(1), golden_backbone(1)
    with pytest.raises(ValueError, match=r"1 missing \(head.head.bias, .*1 unexpected \(vace_blo"):
        load_into(fresh, tmp_path / "x.safetensors")
    for a, b in zip(fresh.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, model, tmp_path):
    weights = model.state_dict()
    weights["blocks.1.ffn.2.bias"] = weights["blocks.1.ffn.2.bias"].clone()
    weights["blocks.1.ffn.2.bias"][3] = value
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"not finite: 1 of \d+ numbers of blocks.1.ffn.2.bias"):
        load_into(model, tmp_path / "bad.safetensors")


def test_a_lost_shard_is_named(model, tmp_path):
    source = write("shards", tmp_path / "in", model)
    lost = sorted(source.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ValueError, match=f"lacks '{lost.name}'"):
        load_into(model, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no weights; expected diffusion_pytorch_model"):
        load_weights(tmp_path / "empty")


def test_a_lost_shard_without_an_index_is_named_too(model, tmp_path):
    source = write("unindexed", tmp_path / "in", model)
    (source / "diffusion_pytorch_model-00001-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks 'diffusion_pytorch_model-00001-of-00003"):
        load_into(model, source)


def test_files_of_a_folder_that_hold_the_same_name_are_refused(model, tmp_path):
    save_file(saved(model), tmp_path / "a.safetensors")
    save_file({"head.head.bias": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="another file of the folder also holds 'head.head.bias'"):
        load_into(model, tmp_path)


def test_a_part_of_a_checkpoint_can_be_asked_for(model, tmp_path):
    source = write("generator_ema", tmp_path / "in", model)
    target = tmp_path / "critic.safetensors"
    assert main(["convert", str(source), str(target), "--part=critic"]) == 0
    expected = model.state_dict()["head.head.bias"] + 1
    assert torch.equal(load_file(target)["head.head.bias"], expected)


def test_a_part_that_is_not_there_is_an_error_that_lists_what_is(model, tmp_path, capsys):
    source = write("generator_ema", tmp_path / "in", model)
    assert main(["convert", str(source), str(tmp_path / "x.safetensors"), "--part=teacher"]) == 1
    said = capsys.readouterr().err
    assert "expected one network 'teacher', found" in said
    assert "'critic.model.', 'generator.model.', 'generator_ema.model.'" in said


def test_copies_of_unknown_names_are_never_guessed_between(model, tmp_path):
    save_file({**saved(model, "left."), **saved(model, "right.")}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"expected one network, found .*'left.', 'right.'"):
        load_weights(tmp_path / "x.safetensors")


def test_a_pickle_of_something_else_is_one_sentence(tmp_path):
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ValueError, match="expected tensors by name, got a list"):
        load_weights(tmp_path / "x.pt")


def test_weights_of_another_number_of_heads_are_refused(model, tmp_path):
    """Their shapes fit, and what they compute does not."""
    source = write("file", tmp_path / "in", model)
    target = tmp_path / "out"
    assert main(["convert", str(source), str(target), "--to=diffusers", "--num_heads=2"]) == 0
    with pytest.raises(ValueError, match="are of 2 attention heads, expected 4"):
        load_into(model, target)


def test_converting_a_folder_keeps_its_number_of_heads(model, tmp_path):
    source = write("file", tmp_path / "in", model)
    first, second = tmp_path / "diffusers", tmp_path / "wan"
    assert main(["convert", str(source), str(first), "--to=diffusers", "--num_heads=4"]) == 0
    assert main(["convert", str(first), str(second)]) == 0
    assert json.loads((second / "config.json").read_text())["num_heads"] == 4


def test_an_adapter_is_not_converted_as_if_it_were_a_model(model, tmp_path, capsys):
    weights = {**saved(model), "blocks.0.ffn.0.lora_A.default.weight": torch.zeros(1)}
    save_file(weights, tmp_path / "x.safetensors")
    assert main(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "out")]) == 1
    assert "holds an adapter; merge it first" in capsys.readouterr().err


def sparse(folder, tensors, front="", count=6):
    """Write shards of these names and shapes in bfloat16 that take no room: their numbers are holes."""
    folder.mkdir()
    for index in range(count):
        header, end = {}, 0
        for name in sorted(tensors)[index::count]:
            begin, end = end, end + 2 * tensors[name].numel()
            shape = list(tensors[name].shape)
            header[front + name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        name = f"diffusion_pytorch_model-{index + 1:05d}-of-{count:05d}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_full_models_are_compared_with_files_without_reading_or_holding_them(size, tmp_path):
    with torch.device("meta"):
        model = WanTransformer(**sizes(size))
    own = model.state_dict()
    same = sparse(tmp_path / "same", own, "model.diffusion_model.")
    assert sum(file.stat().st_size for file in same.iterdir()) > 2 * SIZES[size]
    assert compare_weights(model, same).fits
    with pytest.raises(ValueError, match="on the meta device; give it memory first"):
        load_into(model, same)
    own["head.vace"] = own.pop("blocks.0.modulation")
    own["head.modulation"] = own["head.modulation"][..., 1:]
    found = compare_weights(model, sparse(tmp_path / "other", own))
    assert found.missing == ("blocks.0.modulation",)
    assert found.unexpected == ("head.vace",)
    assert [text.split(" is ")[0] for text in found.misshapen] == ["head.modulation"]


def test_a_recipe_streams_with_weights_from_a_folder(tmp_path):
    name, folder = "toy/generator.safetensors", tmp_path / "mine"
    recipe = load_module("toy/adastate", weights=name).streamer.backbone
    heads = f"--num_heads={recipe.num_heads}"
    assert main(["convert", name, str(folder), "--to=diffusers", heads]) == 0
    other = load_module("toy/adastate", weights=str(folder)).streamer.backbone
    for (label, a), b in zip(recipe.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), label


def test_shapes_are_known_without_reading(model, tmp_path):
    files = WeightFiles(write("shards", tmp_path / "in", model))
    assert files.shape("head.head.bias") == tuple(model.head.head.bias.shape)
    assert strip(files.names).keys() == model.state_dict().keys()


def test_a_models_own_dtype_stays(model, tmp_path):
    source = write("file", tmp_path / "in", model)
    target = tmp_path / "half.safetensors"
    assert main(["convert", str(source), str(target), "--dtype=bfloat16"]) == 0
    assert load_file(target)["head.head.bias"].dtype == torch.bfloat16
    fresh = golden_backbone(1)
    load_into(fresh, target)
    assert fresh.head.head.bias.dtype == torch.float32
    assert torch.equal(fresh.head.head.bias, model.head.head.bias.bfloat16().float())


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--to=diffusers"], "no multiple of Wan's head dimension 128; give `--num_heads`"),
        (["--to=self_forcing"], "must be .pt, got"),
        (["--shard_gb=0"], "`shard_gb` must be positive"),
        (["--num_heads=7"], "`num_heads` must divide the width 96"),
    ],
)
def test_a_conversion_that_cannot_be_is_one_sentence(args, reason, model, tmp_path, capsys):
    source = write("file", tmp_path / "in", model)
    assert main(["convert", str(source), str(tmp_path / "out"), *args]) == 1
    assert reason in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


def test_nothing_is_overwritten(model, tmp_path, capsys):
    source = write("file", tmp_path / "in", model)
    (tmp_path / "out").mkdir()
    assert main(["convert", str(source), str(tmp_path / "out"), "--num_heads=4"]) == 1
    assert "exists; remove it or write elsewhere" in capsys.readouterr().err
