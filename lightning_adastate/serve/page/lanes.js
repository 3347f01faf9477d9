// The pictures: one card per lane, drawn from its part of the one video, so lanes cannot get out of step.

import { attentionBars } from "./plots.js";

const NAMES = ["A", "B"];

class LaneCard {
  constructor(number, { onAnchor, onClose }) {
    this.number = number;
    this.canvases = {};
    this.box = document.createElement("article");
    this.box.className = number ? "lane second" : "lane";
    this.box.setAttribute("aria-label", `Lane ${NAMES[number]}`);
    this.box.innerHTML = `
      <div class="top">
        <span class="name"><span class="dot" aria-hidden="true"></span>${NAMES[number]}</span>
        <select class="anchor" aria-label="Anchor of lane ${NAMES[number]}"></select>
        <button type="button" class="small close">Close</button>
        <span class="chunk"></span>
      </div>
      <div class="pictures"></div>
      <p class="says"></p>
      <div class="attention" hidden><p>Attention to each cached frame, anchor first</p><svg></svg></div>`;
    this.anchor = this.box.querySelector("select");
    this.anchor.addEventListener("change", () => onAnchor(this.anchor.value, number));
    this.close = this.box.querySelector(".close");
    this.close.addEventListener("click", () => onClose(number));
  }

  status({ anchors }, lane, alone) {
    if (this.anchor.options.length !== anchors.length) {
      this.anchor.replaceChildren(...anchors.map((name) => new Option(name, name)));
    }
    if (document.activeElement !== this.anchor) this.anchor.value = lane.anchor;
    this.close.hidden = alone;
  }

  says({ prompt, chunk, attention }) {
    const text = document.createElement("b");
    text.textContent = prompt;
    this.box.querySelector(".says").replaceChildren(text);
    this.box.querySelector(".chunk").textContent = `chunk ${chunk}`;
    const bars = this.box.querySelector(".attention");
    if (attention) {
      bars.hidden = attention.length === 0;
      attentionBars(bars.querySelector("svg"), attention);
    }
  }

  canvas(kind, [width, height]) {
    let canvas = this.canvases[kind];
    if (!canvas) {
      const figure = document.createElement("figure");
      canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Lane ${NAMES[this.number]}, ${kind === "hidden" ? "hidden state, decoded" : "video"}`);
      canvas.dataset.kind = kind;
      const caption = document.createElement("figcaption");
      caption.textContent = kind === "hidden" ? "hidden state" : "content";
      figure.append(canvas, caption);
      this.box.querySelector(".pictures").append(figure);
      this.canvases[kind] = canvas;
    }
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    canvas.classList.toggle("fine", height > 200);
    return canvas;
  }

  // Beside every content there is room for a hidden state, so that all contents are of one size.
  keepOnly(kinds) {
    const box = this.box.querySelector(".pictures");
    let none = box.querySelector(".none");
    if (kinds.includes("hidden")) none?.remove();
    else if (!none) {
      none = document.createElement("p");
      none.className = "none";
      none.textContent = "no hidden state";
      box.append(none);
    }
    for (const kind of Object.keys(this.canvases)) {
      if (kinds.includes(kind)) continue;
      this.canvases[kind].parentElement.remove();
      delete this.canvases[kind];
    }
  }
}

export class Stage {
  constructor(box, actions) {
    this.box = box;
    this.actions = actions;
    this.cards = [];
  }

  resize(count) {
    while (this.cards.length > count) this.cards.pop().box.remove();
    while (this.cards.length < count) {
      const card = new LaneCard(this.cards.length, this.actions);
      this.cards.push(card);
      this.box.append(card.box);
    }
    this.box.classList.toggle("single", count === 1);
  }

  status(status) {
    this.resize(status.lanes.length);
    status.lanes.forEach((lane, number) => this.cards[number].status(status, lane, status.lanes.length === 1));
  }

  draw(video, { header }) {
    const { layout, panel } = header;
    layout.forEach(([lane, kind], place) => {
      const card = this.cards[lane];
      if (!card) return;
      const context = card.canvas(kind, panel).getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(video, place * panel[0], 0, panel[0], panel[1], 0, 0, panel[0], panel[1]);
    });
    this.cards.forEach((card, number) => {
      card.keepOnly(layout.filter(([lane]) => lane === number).map(([, kind]) => kind));
      if (header.lanes[number]) card.says(header.lanes[number]);
    });
  }
}
