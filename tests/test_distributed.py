"""FSDP2 with generator, average, teacher and critic: the same steps as DDP, and checkpoints that travel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_toy import self_forcing

from lightning_adastate.training.sharding import data_mesh, shard_networks
from lightning_adastate.weights.loading import load_weights

SCRIPT = Path(__file__).parent / "distributed_run.py"
DDP = "ddp"
CHUNKS = {
    "options": {
        "backward": "chunks",
        "accumulate": 2,
        "generator_interval": 1,
        "recompute": True,
    },
    "epochs": 2,
}
NETWORKS = ["generator", "generator_ema", "teacher", "critic"]
BATCHES, SAVED_AT = 2, 1
"""Batches of a run of two processes, and after which one it saves."""


def runs(folder, processes, runs):
    """Start the processes once and let them make all the runs."""
    (folder / "runs.json").write_text(json.dumps({"processes": processes, "runs": runs}))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {run["name"]: torch.load(folder / f"{run['name']}.pt") for run in runs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def two(folder):
    """Runs of two processes."""
    return runs(
        folder,
        2,
        [
            {"name": "ddp", "epochs": 2, "strategy": DDP},
            {
                "name": "fsdp",
                "epochs": 2,
                "strategy": "sharded",
                "save": "fsdp.ckpt",
                "save_at": SAVED_AT,
            },
            {"name": "fsdp_again", "epochs": 2, "strategy": "sharded", "resume": "fsdp.ckpt"},
            {
                "name": "file",
                "epochs": 2,
                "strategy": "one_file",
                "save": "file.ckpt",
                "save_at": SAVED_AT,
            },
            {"name": "file_again", "epochs": 2, "strategy": "one_file", "resume": "file.ckpt"},
            {"name": "ddp_chunks", "strategy": DDP, **CHUNKS},
            {
                "name": "chunks",
                "strategy": "sharded",
                **CHUNKS,
                "save": "chunks.ckpt",
                "save_at": 3,
            },
            {
                "name": "chunks_again",
                "strategy": "sharded",
                **CHUNKS,
                "resume": "chunks.ckpt",
            },
            {"name": "lora", "strategy": "sharded", "options": {"lora": True}},
            {"name": "ddp_lora", "strategy": DDP, "options": {"lora": True}},
            {"name": "mixed", "strategy": "sharded", "precision": "bf16-mixed"},
            {"name": "ddp_mixed", "strategy": DDP, "precision": "bf16-mixed"},
            {"name": "bf16", "strategy": "sharded", "options": {"teacher_dtype": "bfloat16"}},
        ],
    )


@pytest.fixture(scope="module")
def one(folder, two):
    """Runs of one process, some from what two have saved."""
    command = [sys.executable, "-m", "torch.distributed.checkpoint.format_utils", "dcp_to_torch"]
    subprocess.run(
        [*command, str(folder / "fsdp.ckpt"), str(folder / "weights.pt")],
        check=True,
        capture_output=True,
    )
    return runs(
        folder,
        1,
        [
            {"name": "plain", "strategy": "auto"},
            {"name": "fsdp_alone", "strategy": "sharded"},
            {"name": "from_fsdp", "strategy": "sharded", "resume": "fsdp.ckpt"},
            {"name": "from_file", "strategy": "sharded", "resume": "file.ckpt"},
            {"name": "plain_from_file", "strategy": "auto", "resume": "file.ckpt"},
        ],
    )


class Mesh:
    """As many processes side by side as it is told; a real mesh needs them."""

    def __init__(self, count):
        self.count = count

    def __getitem__(self, name):
        return self

    def size(self):
        return self.count


def close(found, expected, tolerance=2e-5):
    for name in ("weights", "moments"):
        torch.testing.assert_close(found[name], expected[name], atol=tolerance, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"), [("fsdp", "ddp"), ("file", "ddp"), ("chunks", "ddp_chunks")]
)
def test_fsdp_takes_the_steps_of_ddp(two, ours, theirs):
    assert two[ours]["spread"] == NETWORKS
    assert two[theirs]["spread"] == []
    assert two[theirs]["steps"] == two[ours]["steps"] == 2
    assert not torch.equal(two[theirs]["begin"]["weights"], two[theirs]["end"]["weights"])
    close(two[ours]["end"], two[theirs]["end"], 2e-4)  # 2 % of a step of Adam
    torch.testing.assert_close(two[ours]["norms"], two[theirs]["norms"], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_fsdp_on_one_process_takes_the_plain_steps(one):
    assert one["fsdp_alone"]["batches"] == 2 * BATCHES
    close(one["fsdp_alone"]["end"], one["plain"]["end"])


@pytest.mark.slow
def test_mixed_precision_keeps_float32_weights_under_fsdp(two):
    assert two["mixed"]["dtypes"] == ["torch.float32"]
    apart = two["mixed"]["end"]["weights"] - two["ddp_mixed"]["end"]["weights"]
    assert float((apart.abs() > 2e-3).float().mean()) < 0.01, "where Adam divides small by small"
    torch.testing.assert_close(two["mixed"]["norms"], two["ddp_mixed"]["norms"], atol=0, rtol=2e-2)
    moved = two["mixed"]["end"]["weights"] - two["fsdp"]["end"]["weights"]
    assert float(moved.abs().max()) > 0, "bfloat16 changes something"


@pytest.mark.slow
def test_adapters_train_under_fsdp_as_under_ddp(two):
    assert two["lora"]["spread"] == NETWORKS, "frozen weights too, and after each forward pass"
    close(two["lora"]["end"], two["ddp_lora"]["end"])


@pytest.mark.slow
def test_a_teacher_in_bfloat16_is_spread_beside_float32_networks(two):
    assert two["bf16"]["dtypes"] == ["torch.bfloat16", "torch.float32"]
    assert two["bf16"]["spread"] == NETWORKS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "file", "chunks"])
def test_a_run_resumes_from_its_checkpoint_exactly(folder, two, name):
    assert (folder / f"{name}.ckpt").is_dir() == (name != "file")
    again = two[f"{name}_again"]
    assert again["batches"] == two[name]["batches"]
    assert len(again["norms"]) < len(two[name]["norms"])
    close(again["end"], two[name]["end"], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["from_fsdp", "from_file", "plain_from_file"])
def test_a_checkpoint_of_two_processes_goes_on_in_one(one, two, name):
    assert one[name]["batches"] > BATCHES
    close(one[name]["begin"], two["fsdp_again"]["begin"], 0.0)
    assert not torch.equal(one[name]["begin"]["weights"], two["fsdp"]["begin"]["weights"])


@pytest.mark.slow
def test_weights_load_into_networks_that_are_spread(two):
    assert two["fsdp"]["filled"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights.pt", "file.ckpt"])
def test_a_checkpoint_in_one_file_is_weights_to_generate_with(folder, one, two, name):
    found = load_weights(folder / name)
    model = self_forcing(weights=str(folder / name))
    average = torch.cat([p.detach().flatten() for p in model.generator_ema.parameters()])
    count = average.numel()
    torch.testing.assert_close(
        average, two["fsdp_again"]["begin"]["weights"][count : 2 * count], atol=0.0, rtol=0.0
    )
    assert not any("teacher" in key for key in found)


def test_a_sharded_checkpoint_is_no_weights_and_the_remedy_is_named(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(
        ValueError, match="checkpoint spread over files; make it one: .*dcp_to_torch"
    ):
        load_weights(tmp_path)


def test_tensors_are_not_split_and_the_remedy_is_named():
    mesh = Mesh(2)
    with pytest.raises(ValueError, match="`tensor_parallel_size` to 1, got 2"):
        data_mesh(mesh)


def test_an_anchor_with_parameters_is_refused_under_fsdp():
    model = self_forcing()
    model.generator.anchor.scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="AdaptiveAnchor has parameters.*ddp"):
        shard_networks(model, mesh=None)


def test_a_teacher_is_not_offloaded_and_spread_as_well():
    model = self_forcing(teacher_offload=True)
    model._device_mesh = object()
    with pytest.raises(ValueError, match="`teacher_offload` must be false, got true"):
        model.setup("fit")
