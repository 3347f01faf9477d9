"""Draw docs/mechanisms/*.png and write the generated parts of its pages: python docs/draw_mechanisms.py [NAME ...]

Nothing is drawn by hand: every picture and every number is what `lay_out` reads back from a stream of symbols.
"""

import argparse
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lightning_adastate.analysis.layout import lay_out
from lightning_adastate.analysis.layout_pictures import layout_picture
from lightning_adastate.analysis.layout_table import COLUMNS
from lightning_adastate.analysis.layout_text import describe, joint_passes
from lightning_adastate.analysis.operations import GIGA, TERA, WAN_1_3B, chunk_cost
from lightning_adastate.recipes.mechanism import load_mechanism
from lightning_adastate.streaming.events import prompt_switch, rope_cut

DOCS = Path(__file__).parent
PAGES = DOCS / "mechanisms"
CONFIGS = DOCS.parent / "configs" / "mechanisms"
GRID = (WAN_1_3B.rows, WAN_1_3B.columns)
COARSE = (4, 8)


class Page(NamedTuple):
    """A mechanism as the docs show it."""

    title: str
    idea: str
    source: str
    shown: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    period: int = 1
    packs: bool = False
    page: str = ""
    note: str = ""


class Proof(NamedTuple):
    """Where a mechanism is trained on the toy world, and what tests it."""

    toy: tuple[str, ...]
    tests: tuple[str, ...]


class Extra(NamedTuple):
    """A further picture of a mechanism: what an event does."""

    name: str
    timeline: tuple
    shown: tuple[int, ...]
    title: str


PICKED = "which tokens are picked is up to a model's queries; here they are random"

MECHANISMS = {
    "adastate": Page("AdaState", "a hidden frame, denoised with every chunk", "2605.30349"),
    "self_forcing": Page(
        "Self-Forcing", "nothing; the window rolls", "2506.08009", (0, 1, 2, 6, 7, 8)
    ),
    "self_forcing_plus_plus": Page(
        "Self-Forcing++",
        "nothing; the window rolls, in training too",
        "2510.02283",
        (0, 1, 2, 6, 7, 8),
    ),
    "longlive": Page("LongLive", "the first 3 frames", "2509.22622", (0, 1, 3, 4, 5, 6)),
    "infinity_rope": Page("Infinity-RoPE", "the first frame", "2511.20649"),
    "reward_forcing": Page("Reward Forcing", "3 running averages of what left", "2512.04678"),
    "memrope": Page(
        "MemRoPE", "3 first frames, a slow and a fast average", "2603.12513", (0, 1, 3, 4, 5, 6)
    ),
    "rolling_sink": Page(
        "Rolling Sink",
        "the first 18 frames, walked back and forth",
        "2602.07775",
        (0, 6, 7, 8, 9, 13),
    ),
    "rolling_forcing": Page(
        "Rolling Forcing",
        "the first 3 frames; 5 chunks denoised together",
        "2509.25161",
        (0, 3, 7),
    ),
    "deep_forcing": Page(
        "Deep Forcing",
        "the first 10 frames and 2 frames' worth of picked tokens",
        "2512.05081",
        (0, 6, 7, 8, 9, 10),
        period=2,
        note=PICKED,
    ),
    "pack_forcing": Page(
        "PackForcing",
        "the first 8 frames and packed ones, picked by queries",
        "2603.25730",
        (0, 1, 2, 3, 5, 8),
        packs=True,
        note=PICKED.replace("tokens", "packed frames"),
    ),
    "causvid": Page(
        "CausVid",
        "nothing; all is forgotten every 21 frames",
        "2412.07772",
        (0, 1, 5, 6, 7, 8),
        period=6,
    ),
    "causal_forcing": Page(
        "Causal Forcing", "nothing; the window rolls", "2602.02214", (0, 1, 2, 6, 7, 8)
    ),
    "causal_forcing_framewise": Page(
        "Causal Forcing, frame-wise",
        "nothing; chunks of one frame",
        "2602.02214",
        (0, 1, 2, 20, 21, 22),
        page="causal_forcing",
    ),
    "diagonal": Page(
        "Diagonal Distillation",
        "the first 3 frames, slightly noisy",
        "2603.09488",
        (0, 1, 2, 3, 4, 5),
    ),
}

TRAINING_FREE = ("self_forcing",)

PROOFS = {
    "adastate": Proof(
        ("adastate", "adastate_recurrent"),
        (
            "anchors/test_adaptive.py",
            "test_layouts.py::test_adastate_is_that_of_the_paper",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "self_forcing": Proof(
        ("self_forcing",),
        (
            "test_layouts.py::test_self_forcing_and_causal_forcing_roll_as_we_do",
            "training/test_self_forcing.py::test_a_training_rollouts_gradients_equal_the_recording",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "self_forcing_plus_plus": Proof(
        ("long_rollouts",),
        (
            "training/test_rollouts.py::test_a_long_rollout_scores_what_streaming_makes_at_a_random_place",
        ),
    ),
    "longlive": Proof(
        ("static", "continued"),
        (
            "anchors/test_static.py",
            "test_layouts.py::test_a_recache_leaves_what_longlive_leaves",
            "test_events.py::test_recache_encodes_the_newest_latents_anew_and_keeps_the_sink",
            "training/test_rollouts.py::test_a_sequence_is_rolled_on_as_one_stream",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "infinity_rope": Proof(
        TRAINING_FREE,
        (
            "anchors/test_static.py",
            "test_layouts.py::test_packed_indices_are_those_of_infinity_rope",
            "test_layouts.py::test_a_flush_keeps_what_infinity_rope_keeps",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "reward_forcing": Proof(
        ("reward_forcing", "ema"),
        (
            "anchors/test_ema.py",
            "test_layouts.py::test_reward_forcing_averages_as_we_do",
            "rewards/test_rewards.py",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "memrope": Proof(
        TRAINING_FREE,
        ("anchors/test_composed.py", "cli/test_replay.py::test_public_systems_replay"),
    ),
    "rolling_sink": Proof(
        TRAINING_FREE,
        (
            "anchors/test_triangular.py",
            "test_layouts.py::test_rolling_sink_reads_its_bank_as_we_do",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "rolling_forcing": Proof(
        ("rolling_forcing",),
        (
            "schedules/test_rolling.py",
            "training/test_rollouts.py::test_every_third_window_has_a_graph_and_they_cover_the_video_once",
        ),
    ),
    "deep_forcing": Proof(
        TRAINING_FREE,
        (
            "anchors/test_selected.py::test_the_tokens_that_recent_queries_attend_to_most_are_selected",
            "anchors/test_selected.py::test_deep_forcings_window_is_a_saw_tooth_of_two_chunks",
        ),
    ),
    "pack_forcing": Proof(
        TRAINING_FREE,
        (
            "anchors/test_selected.py::test_packed_frames_average_patches_and_stand_at_their_middle",
            "anchors/test_selected.py::test_the_bank_shows_what_the_query_asks_for_in_order_of_time",
        ),
    ),
    "causvid": Proof(
        ("trajectories", "ode", "noised_data"),
        (
            "test_events.py::test_restarts_come_every_so_many_chunks_and_forget_all_but_the_overlap",
            "training/test_rollouts.py::test_clips_are_noised_to_levels_of_the_schedule_chunk_by_chunk",
        ),
    ),
    "causal_forcing": Proof(
        ("causal", "causal_ode", "consistency"),
        (
            "test_layouts.py::test_self_forcing_and_causal_forcing_roll_as_we_do",
            "training/test_consistency.py",
        ),
    ),
    "causal_forcing_framewise": Proof(
        ("causal", "causal_ode", "consistency"),
        (
            "test_streamer.py::test_the_first_chunk_that_is_generated_has_the_first_chunks_steps",
            "cli/test_replay.py::test_public_systems_replay",
        ),
    ),
    "diagonal": Proof(
        ("diagonal",),
        ("schedules/test_diagonal.py", "losses/test_motion.py"),
    ),
}
"""Recipes of `configs/toy` (for methods without training: what they stream), and tests, all checked by tests/test_docs.py."""

EXTRAS = {
    "longlive": (
        Extra(
            "longlive-recache",
            (prompt_switch(5, 1, "recache", frames=9),),
            (4, 5, 6, 7),
            "Prompt switch at chunk 5, policy recache",
        ),
        Extra(
            "longlive-rebase",
            (prompt_switch(5, 1, "rebase", frames=12),),
            (4, 5, 6, 7),
            "Prompt switch at chunk 5, policy rebase, 12 frames",
        ),
        Extra(
            "longlive-early",
            (prompt_switch(2, 1, "recache", frames=9),),
            (1, 2, 4, 5),
            "Prompt switch at chunk 2, before any eviction: the sink is made under the new prompt",
        ),
    ),
    "infinity_rope": (
        Extra(
            "infinity_rope-cut",
            (rope_cut(4, prompt=1),),
            (3, 4, 5),
            "RoPE cut at chunk 4: for one chunk the live frames stand far away",
        ),
    ),
}


@cache
def read(name):
    """Return anchor, cache, schedule and timeline of a mechanism's configuration."""
    mechanism = load_mechanism(f"mechanisms/{name}")
    return mechanism, mechanism.timeline


@cache
def costs(name, chunks=49):
    """Return the costs of the last period of a long stream, as text by column."""
    page = MECHANISMS[name]
    model, timeline = read(name)
    grid = GRID if page.packs else (1, 1)
    laid = lay_out(model.anchor, model.cache, model.schedule, chunks, timeline, grid=grid)
    last = [chunk_cost(WAN_1_3B, chunk) for chunk in laid[-page.period :]]
    flops = sum(cost.flops.total for cost in last) / (page.period * model.schedule.chunk_frames)
    return {
        "passes per chunk": _range([cost.passes for cost in last], 0),
        "frames attended to": _range([cost.attended for cost in last], 1),
        "GB of them": _range([cost.attended_bytes / GIGA for cost in last], 2),
        "GB kept": _range([cost.kept_bytes / GIGA for cost in last], 2),
        "TFLOP per chunk": _range([cost.flops.total / TERA for cost in last], 1),
        "TFLOP per frame": f"{flops / TERA:.1f}",
    }


def _range(values, digits):
    low, high = (f"{value:.{digits}f}".removesuffix(".0") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def table(rows):
    """Return a Markdown table of dictionaries."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[key] for key in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def index_table():
    """Return the table of all mechanisms."""
    rows = []
    for name, page in MECHANISMS.items():
        cost = costs(name)
        row = {
            "mechanism": f"[{page.title}]({page.page or name}.md)",
            "in front of the window": page.idea,
            "arXiv": f"[{page.source}](https://arxiv.org/abs/{page.source})",
        }
        rows.append({**row, **{key: cost[key] for key in cost if key != "TFLOP per chunk"}})
    return table(rows)


def last_shown(name):
    """Return in words what the picture's last chunk attends to; a test compares it, so pictures stay true."""
    page = MECHANISMS[name]
    model, timeline = read(name)
    index = page.shown[-1]
    parts = (model.anchor, model.cache, model.schedule)
    grid = GRID if page.packs else COARSE
    laid = lay_out(*parts, index + 1, timeline, grid=grid)[index]
    lines = []
    for passes, seen in joint_passes(laid):
        roles = [role for role in COLUMNS if any(slot.role == role for slot in seen.slots)]
        parts = [f"{role} {describe([s for s in seen.slots if s.role == role])}" for role in roles]
        lines.append(f"Chunk {index}, {passes} (frames @ temporal index): {'; '.join(parts)}.")
    return "\n\n".join(lines)


def made_of(name):
    """Return a table that links a mechanism to its classes, configurations, recipes and tests."""
    model, _ = read(name)
    kinds = [type(part) for part in (model.anchor, model.cache, model.schedule)]
    rooms = ("anchors", "caches", "schedules")
    classes = [
        f"[`{kind.__name__}`](../api/{room}.md#lightning_adastate.{room}.{kind.__name__})"
        for kind, room in zip(kinds, rooms, strict=True)
    ]
    proof = PROOFS[name]
    rows = (
        ("classes", classes),
        ("configuration", [f"`configs/mechanisms/{name}.yaml`"]),
        ("toy recipes", [f"`configs/toy/{toy}.yaml`" for toy in proof.toy]),
        ("1.3B recipe, not trained", [f"`configs/wan1.3b/{name}.yaml`"]),
        ("tests", [f"`tests/{test}`" for test in proof.tests]),
    )
    return table([{"where": what, "": ", ".join(links)} for what, links in rows])


def page_part(name):
    """Return the generated part of a page: picture, cost, where it is, configuration."""
    page = MECHANISMS[name]
    text = (CONFIGS / f"{name}.yaml").read_text().strip()
    return (
        f"![{page.title}: what each chunk attends to]({name}.png)\n\n{last_shown(name)}\n\n{table([costs(name)])}\n\n"
        f"{made_of(name)}\n\n```yaml\n{text}\n```"
    )


def replace_part(text, name, part):
    """Put a generated part between its marks."""
    marks = f"<!-- generated: {name} -->", "<!-- end -->"
    pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
    assert pattern.search(text), f"no mark for {name}"
    return pattern.sub(lambda _: f"{marks[0]}\n{part}\n{marks[1]}", text)


def generated(path):
    """Return the text of a page with its generated parts made anew."""
    text = path.read_text()
    for name in re.findall(r"<!-- generated: (.+?) -->", text):
        part = index_table() if name == "table" else page_part(name)
        text = replace_part(text, name, part)
    return text


def draw(name):
    """Draw the pictures of a mechanism."""
    page = MECHANISMS[name]
    model, timeline = read(name)
    every = [Extra(name, tuple(timeline), page.shown, page.title), *EXTRAS.get(name, ())]
    for extra in every:
        laid = lay_out(
            model.anchor, model.cache, model.schedule, extra.shown[-1] + 1, extra.timeline
        )
        chunks = [laid[index] for index in extra.shown]
        layout_picture(PAGES / f"{extra.name}.png", chunks, title=extra.title, note=page.note)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these mechanisms' pictures")
    asked = parser.parse_args().names
    for name in asked or MECHANISMS:
        draw(name)
    for path in PAGES.glob("*.md"):
        path.write_text(generated(path))


if __name__ == "__main__":
    main()
