"""Kill `generate` at random moments, call it again each time, and compare with a run that was never stopped.

    python benchmarks/kills.py --kills 20 --signal SIGKILL --output /tmp/kills

Every run is a process of its own, a copy of this one that has loaded the model, and gets its signal at a random moment of its
streaming. At the end latents and lossless pixels must be equal to the last bit, and the times of all frames.
"""

import argparse
import os
import random
import signal
import time
from pathlib import Path

import av
import torch
from safetensors.torch import load_file

from lightning_adastate import Generation, generate, load_module
from lightning_adastate.generation.journal import Journal
from lightning_adastate.media import read_video


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [float(frame.pts * stream.time_base) for frame in container.decode(stream)]


def asked(name: Path, chunks: int, every: str, decode: str) -> Generation:
    return Generation(
        "drifting slowly west",
        num_chunks=chunks,
        quality="lossless",
        state_every=every if every == "auto" else int(every),
        decode=decode,
        output=f"{name}.mp4",
        latents=f"{name}.safetensors",
    )


def stop_once(module, generation: Generation, number: int, wait: float) -> tuple[int, int]:
    """Generate in a copy of this process and send it a signal; return what ended it and its exit code."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = generate(module, generation)
        finally:
            os._exit(code)
    time.sleep(wait)
    os.kill(child, number)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status), os.WEXITSTATUS(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--every", default="5", help="state_every")
    parser.add_argument("--decode", default="in_turn")
    parser.add_argument("--signal", default="SIGKILL")
    parser.add_argument(
        "--longest", type=float, default=2.0, help="seconds until the signal, at most"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="/tmp/kills")
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    module = load_module("toy/adastate")
    whole, cut = folder / "whole", folder / "cut"
    if not whole.with_suffix(".mp4").exists():
        generate(module, asked(whole, args.chunks, args.every, "in_turn"))
    again, chance = asked(cut, args.chunks, args.every, args.decode), random.Random(args.seed)
    journal = Journal(cut.with_suffix(".mp4"), {})
    for kill in range(args.kills):
        if kill and not journal.exists:
            break  # it has ended
        ended, code = stop_once(
            module, again, signal.Signals[args.signal], chance.uniform(0.0, args.longest)
        )
        made = journal.made().num_chunks if journal.exists else 0
        print(
            f"stop {kill + 1}: signal {ended}, exit code {code}, {made} chunks saved", flush=True
        )
    if journal.exists:
        generate(module, again)
    one, other = (load_file(f"{name}.safetensors")["latents"] for name in (whole, cut))
    assert torch.equal(one, other), "latents differ"
    assert torch.equal(*(read_video(f"{name}.mp4") for name in (whole, cut))), "pixels differ"
    assert times(whole.with_suffix(".mp4")) == times(cut.with_suffix(".mp4")), "times differ"
    left = sorted(path.name for path in folder.iterdir())
    print(f"equal: {one.shape[1]} latent frames, pixels and times; files: {', '.join(left)}")


if __name__ == "__main__":
    main()
