// Small line plots of the last chunks, and bars of attention. SVG, so that colours follow the theme.

const SVG = "http://www.w3.org/2000/svg";
const LENGTH = 120;
const WIDTH = 200;
const HEIGHT = 60;

function make(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Between which values almost all lie: a single leap must not flatten everything else.
function usual(values) {
  const sorted = [...values].sort((one, two) => one - two);
  if (!sorted.length) return [0, 0];
  const cut = sorted.length > 24 ? Math.floor(sorted.length * 0.04) : 0;
  return [sorted[cut], sorted.at(-1 - cut)];
}

export class Plot {
  constructor(parent, { title, unit, digits, least }) {
    this.title = title;
    this.unit = unit;
    this.digits = digits;
    this.least = least;
    this.lines = [[], []];
    this.asked = [];
    const box = document.createElement("div");
    box.className = "plot";
    const head = document.createElement("p");
    const name = document.createElement("span");
    name.textContent = title;
    this.values = document.createElement("span");
    this.values.className = "values";
    head.append(name, this.values);
    this.svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
    const small = document.createElement("small");
    small.textContent = unit;
    this.paths = [make("path", { class: "asked" }), make("path", { class: "line-1" }), make("path", { class: "line-0" })];
    this.svg.append(...this.paths);
    box.append(head, this.svg, small);
    parent.append(box);
    this.box = box;
  }

  add(values, asked = null) {
    [0, 1].forEach((lane) => {
      this.lines[lane].push(values[lane] ?? null);
      if (this.lines[lane].length > LENGTH) this.lines[lane].shift();
    });
    this.asked.push(asked);
    if (this.asked.length > LENGTH) this.asked.shift();
    this.draw();
  }

  draw() {
    const all = [...this.lines.flat(), ...this.asked].filter((value) => value !== null);
    const [low, high] = usual(all);
    const top = Math.max(this.least, high * 1.15);
    const bottom = Math.min(0, low * 1.15);
    const path = (line) => {
      let text = "", pen = "M";
      line.forEach((value, index) => {
        if (value === null) { pen = "M"; return; }
        const x = (index + LENGTH - line.length) * WIDTH / (LENGTH - 1);
        const y = HEIGHT - 1 - (value - bottom) / (top - bottom) * (HEIGHT - 2);
        text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
        if (pen === "M") text += "h.01"; // a single point is seen as well
        pen = "L";
      });
      return text;
    };
    this.paths[0].setAttribute("d", path(this.asked));
    this.paths[1].setAttribute("d", path(this.lines[1]));
    this.paths[2].setAttribute("d", path(this.lines[0]));
    const newest = this.lines.map((line) => line.findLast((value) => value !== null));
    this.values.replaceChildren(...newest.flatMap((value, lane) => {
      if (value === undefined) return [];
      const span = document.createElement("span");
      span.className = lane ? "two" : "one";
      span.textContent = value.toFixed(this.digits);
      return [span];
    }));
    this.svg.setAttribute("aria-label", `${this.title}, ${this.unit}: ${newest.filter((v) => v !== undefined).map((v) => v.toFixed(this.digits)).join(" and ")}`);
  }

  clear() {
    this.lines = [[], []];
    this.asked = [];
    this.draw();
  }
}

// One bar per cached frame that the newest chunk read: the anchor's in colour.
export function attentionBars(svg, frames) {
  const width = 100 / frames.length;
  const most = Math.max(0.02, ...frames.map(([, , share]) => share));
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...frames.map(([role, frame, share], place) => {
    const height = 38 * share / most;
    const bar = make("rect", { class: role, x: place * width + 0.4, width: Math.max(0.5, width - 0.8), y: 40 - height, height });
    const title = make("title");
    title.textContent = `${role} frame ${frame}: ${(100 * share).toFixed(1)} % of the attention`;
    bar.append(title);
    return bar;
  }));
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Attention to each cached frame: " + frames.map(([role, frame, share]) => `${role} ${frame} ${(100 * share).toFixed(0)} %`).join(", "));
}
