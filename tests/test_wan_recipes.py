"""The 1.3B recipes run as they stand, with only sizes and files swapped for tiny ones."""

from pathlib import Path

import pytest
import torch
import yaml

from lightning_adastate.__main__ import main
from lightning_adastate.recipes.names import config_root

FOLDER = config_root() / "wan1.3b"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "trajectories")
TINY = """class_path: WanTransformer
init_args: {dim: 24, ffn_dim: 32, num_heads: 2, num_layers: 1, in_channels: 12, patch_size: [1, 1, 1], freq_dim: 16, text_dim: 8, text_tokens: 4}
"""


def read(recipe):
    return yaml.safe_load((FOLDER / f"{recipe}.yaml").read_text())


STREAMED = [name for name in RECIPES if read(name)["model"]["class_path"] == "StreamModule"]
TRAINED = [name for name in RECIPES if read(name)["model"]["class_path"] == "SelfForcing"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("lora.yaml").write_text(
        "class_path: LoRABackbone\ninit_args: {backbone: tiny.yaml, rank: 2, alpha: 2}\n"
    )
    Path("prompts.txt").write_text("a storm\na calm sea\n")
    return tmp_path


def swapped(recipe):
    """What a laptop has not: weights, width, height, the VAE and the text encoder."""
    model = read(recipe)["model"]["init_args"]
    lora = "LoRA" in str(model["backbone"])
    backbone = "lora.yaml" if lora else "tiny.yaml"
    options = {
        "backbone": backbone,
        "codec": "{class_path: PixelShuffleCodec, init_args: {stride: 2}}",
        "text_encoder": "{class_path: VocabularyEncoder, init_args: {text_dim: 8, max_tokens: 4}}",
        "frame_size": "[4, 6]",
        "weights": "null",
    }
    if "loss" in model:
        options |= {"teacher": "tiny.yaml", "critic": backbone}
        options |= {"teacher_weights": "null", "critic_weights": "null"}
        options |= {"negative_prompt": "ugly"}
    return [f"--model.{name}={value}" for name, value in options.items()]


def test_there_is_a_recipe_for_every_mechanism():
    assert {"adastate", "self_forcing", "longlive", "rolling_forcing", "memrope"} <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_parses_as_it_stands(recipe, capsys):
    verb = "generate" if recipe in STREAMED else "fit"
    assert main([verb, "--config", f"wan1.3b/{recipe}", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["frame_size"] == [480, 832]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_streams_past_its_window(recipe):
    asked = ["--generation.prompts=prompts.txt", "--generation.num_chunks=14"]
    asked += ["--generation.output=null", "--generation.latents=made.safetensors"]
    where = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    assert main(["generate", f"--config=wan1.3b/{recipe}", *swapped(recipe), *asked, *where]) == 0
    assert len(list(Path().glob("made-*.safetensors"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRAINED)
def test_recipe_trains_a_generator_step(recipe):
    data = ["--data.path=prompts.txt"]
    if "folder" in read(recipe)["data"]["init_args"]:
        data = ["--data=PanWorldData", "--data.num_clips=4", "--data.video_frames=21"]
        data += ["--data.clip_frames=21", "--data.cache_folder=clips", "--data.batch_size=1"]
        data += [
            "--data.world={class_path: PanWorld, init_args: {height: 4, width: 6, hero_size: 2}}"
        ]
    where = ["--trainer.accelerator=cpu", "--trainer.max_steps=1", "--trainer.logger=false"]
    where += ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
    where += ["--trainer.num_sanity_val_steps=0"]
    torch.manual_seed(0)
    assert main(["fit", f"--config=wan1.3b/{recipe}", *swapped(recipe), *data, *where]) == 0
