// Wires the page: what comes in goes to player, stage and plots; what people do goes out as commands.

import { Stage } from "./lanes.js";
import { Link } from "./link.js";
import { Player } from "./player.js";
import { Plot } from "./plots.js";

const POLICIES = {
  keep: "Cached frames stay as the old prompt made them.",
  recache: "The newest frames are encoded anew under the new prompt, the anchor stays.",
  rebase: "They are encoded anew, and the anchor begins anew with them.",
  drop: "Window and anchor are emptied.",
  flush: "Only the newest two frames stay beside the anchor.",
  cut: "That, and the next chunk stands far away in time: a new scene.",
};

const $ = (name) => document.getElementById(name);
let status = null;
let noticeTimer = 0;

function notice(text, bad = false) {
  const box = $("notice");
  box.textContent = text;
  box.classList.toggle("bad", bad);
  box.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { box.hidden = true; }, 5000);
}

async function ask(type, fields, said) {
  try {
    await link.ask(type, fields);
    if (said) notice(said);
    return true;
  } catch (error) {
    notice(error.message, true);
    return false;
  }
}

const stage = new Stage($("stage"), {
  onAnchor: (name, lane) => ask("anchor", { name, lane }, `${name} begins empty in the next chunk`),
  onClose: (lane) => ask("close", { lane }),
});

const plots = {
  motion: new Plot($("plots"), { title: "Motion", unit: "pixels per frame as prompted (dashed)", digits: 2, least: 0.5 }),
  drift: new Plot($("plots"), { title: "Drift", unit: "distance of the scene from the truth", digits: 3, least: 0.05 }),
  identity: new Plot($("plots"), { title: "Identity", unit: "error of the hero's colour", digits: 2, least: 0.3 }),
  ms: new Plot($("plots"), { title: "Time per chunk", unit: "milliseconds per lane", digits: 0, least: 20 }),
  age: new Plot($("plots"), { title: "Age", unit: "seconds from chunk made to frame shown", digits: 2, least: 0.5 }),
};

let knowsTruth = false;
let lastShown = null;
let pace = ""; // whether chunks are made as fast as they are watched
const player = new Player($("video"), (video, shown) => {
  stage.draw(video, shown);
  if (shown === lastShown) return;
  lastShown = shown;
  const { lanes, seconds } = shown.header;
  const pick = (name) => lanes.map((lane) => lane[name]);
  plots.motion.add(pick("motion"), lanes[0].asked);
  plots.drift.add(pick("drift"));
  plots.identity.add(pick("identity"));
  if (pick("identity").some((value) => value !== null)) knowsTruth = true;
  plots.identity.box.hidden = !knowsTruth;
  plots.ms.add(pick("ms"));
  plots.age.add([(performance.now() - shown.received) / 1000 + seconds]);
  const { frames, fps } = shown.header;
  pace = seconds > frames / fps ? `, ${(frames / fps / seconds).toFixed(1)} x real time` : "";
  health();
});

const link = new Link({
  onChunk: (header, data) => player.add(header, data),
  onStatus: show,
  onError: (text) => notice(text.message ?? text, true),
  onState: (text) => { if (text !== "live") $("health").textContent = text; },
});

function show(now) {
  status = now;
  stage.status(now);
  health();
  $("pause").textContent = now.paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(now.paused));
  $("branch").textContent = now.lanes.length > 1 ? "Branch anew" : "Branch";
  fill($("policy"), now.policies.map((name) => [name, name]), "recache");
  fill($("lane"), [["", "all"], ...now.lanes.map((_, lane) => [String(lane), "AB"[lane]])], "");
  $("examples").replaceChildren(...now.examples.map((text) => new Option(text)));
  $("prompt").placeholder = now.examples[0];
  if (document.activeElement !== $("seed")) $("seed").value = now.seed;
  hint();
  notes(now);
  saves(now);
}

function health() {
  if (!status) return;
  const text = `${status.paused ? "paused" : `${status.fps} frames/s${pace}`}, ${status.viewers} watching`;
  if ($("health").textContent !== text) $("health").textContent = text;
}

function fill(select, options, first) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options === wanted) return;
  const before = select.dataset.options ? select.value : first;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  select.value = options.some(([value]) => value === before) ? before : first;
  select.dataset.options = wanted;
}

function hint() {
  $("policy-help").textContent = POLICIES[$("policy").value] ?? "";
}

function notes(now) {
  const key = JSON.stringify(now.notes);
  if ($("notes").dataset.key === key) return;
  $("notes").dataset.key = key;
  const items = now.notes.toReversed().map(([chunk, lane, text]) => {
    const item = document.createElement("li");
    const when = document.createElement("span");
    when.className = "when";
    when.textContent = `chunk ${chunk}`;
    const what = document.createElement("span");
    what.textContent = lane === null ? text : `${"AB"[lane]}: ${text}`;
    item.append(when, what);
    return item;
  });
  if (!items.length) items.push(empty("li", "Nothing has changed yet."));
  $("notes").replaceChildren(...items);
}

function empty(tag, text) {
  const item = document.createElement(tag);
  item.className = "empty";
  item.textContent = text;
  return item;
}

function saves(now) {
  const key = JSON.stringify([now.saves, now.lanes.length]);
  if ($("saves").dataset.key === key) return;
  $("saves").dataset.key = key;
  const items = now.saves.map(({ save, label, lanes }) => {
    const item = document.createElement("li");
    const text = document.createElement("span");
    text.className = "label";
    text.textContent = label;
    const what = document.createElement("span");
    what.textContent = lanes.map(([anchor, chunk]) => `${anchor}, chunk ${chunk}`).join("; ");
    text.append(what);
    item.append(
      text,
      button("Restore", `Restore ${label}`, () => ask("restore", { save }, `restored ${label}`)),
      button("as B", `Restore ${label} as lane B`, () => ask("restore", { save, lane: 1 }, `restored ${label} as B`)),
      button("Delete", `Delete ${label}`, () => ask("forget", { save })),
    );
    return item;
  });
  if (!items.length) items.push(empty("li", "Save keeps where the streams stand, anchors included."));
  $("saves").replaceChildren(...items);
}

function button(text, label, onClick) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "small";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", onClick);
  return made;
}

function lane() {
  const value = $("lane").value;
  return value === "" ? {} : { lane: Number(value) };
}

const actions = {
  pause: () => ask("pause", { on: !status?.paused }),
  flush: () => ask("change", { policy: "flush", ...lane() }, "flushed"),
  cut: () => ask("change", { policy: "cut", ...lane() }, "cut"),
  save: () => ask("save", {}, "saved"),
  branch: () => ask("branch", {}, "B goes on from where A stands"),
  restart: () => ask("restart", $("seed").value === "" ? {} : { seed: Number($("seed").value) }),
};
for (const [name, action] of Object.entries(actions)) $(name).addEventListener("click", action);

$("prompt-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = $("prompt").value;
  if (await ask("change", { prompt, policy: $("policy").value, ...lane() })) $("prompt").value = "";
});
$("policy").addEventListener("change", hint);

const KEYS = { " ": "pause", f: "flush", c: "cut", s: "save", b: "branch" };
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, button");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    $("prompt").focus();
  } else if (KEYS[event.key]) {
    event.preventDefault();
    actions[KEYS[event.key]]();
  }
});

if (!player.supported) notice("This browser has no Media Source Extensions: it cannot show the stream.", true);
