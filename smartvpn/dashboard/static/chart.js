"use strict";
/* Two series over five minutes, and the small lines in the table; plain SVG, coloured by the style sheet. */

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/* The next of 1, 2, 5, 10 … in bits a second, given and returned in bytes. */
function niceCeiling(rate) {
  const wanted = Math.max(rate * 8, 1000), power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].find((step) => step * power >= wanted) * power / 8;
}

class TrafficChart {
  constructor(holder, seconds) {
    this.holder = holder;
    this.seconds = seconds;
    this.points = [];
    this.hover = null;
    new ResizeObserver(() => this.draw()).observe(holder);
    holder.addEventListener("pointermove", (event) => { this.hover = event.offsetX; this.draw(); });
    holder.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
  }

  reset(points) { this.points = points; this.draw(); }

  add(point) {
    if (this.points.length && this.points[this.points.length - 1][0] >= point[0]) return;
    this.points.push(point);
    while (this.points.length && this.points[0][0] < point[0] - this.seconds) this.points.shift();
    this.draw();
  }

  draw() {
    const width = this.holder.clientWidth, height = this.holder.clientHeight, left = 74, bottom = 22, top = 8;
    if (width < 100) return;
    const end = this.points.length ? this.points[this.points.length - 1][0] : 0, start = end - this.seconds;
    const most = niceCeiling(Math.max(0, ...this.points.map((point) => Math.max(point[1], point[2]))));
    const x = (time) => left + (width - left - 4) * (time - start) / this.seconds;
    const y = (rate) => top + (height - top - bottom) * (1 - rate / most);
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Traffic chart" });
    for (let step = 0; step <= 4; step++) {
      const rate = most * step / 4;
      root.append(svg("line", { x1: left, x2: width - 4, y1: y(rate), y2: y(rate), class: "grid" }),
        svg("text", { x: left - 8, y: y(rate) + 4, class: "axis end" }, rate ? bits(rate) : "0"));
    }
    for (let minute = 0; minute <= this.seconds / 60; minute += width < 480 ? 2 : 1)
      root.append(svg("text", { x: x(end - minute * 60), y: height - 4, class: minute ? "axis middle" : "axis end" }, minute ? `−${minute} min` : "now"));
    for (const [series, name] of [[1, "sent"], [2, "received"]]) this.line(root, series, name, x, y);
    if (this.hover !== null && this.points.length) this.tip(root, x, y, width);
    this.holder.replaceChildren(root);
  }

  line(root, series, name, x, y) {
    if (!this.points.length) return;
    const path = this.points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[series]).toFixed(1)}`).join("");
    const first = x(this.points[0][0]).toFixed(1), last = x(this.points[this.points.length - 1][0]).toFixed(1);
    root.append(svg("path", { d: `${path}L${last} ${y(0)}L${first} ${y(0)}Z`, class: `area ${name}` }), svg("path", { d: path, class: `line ${name}` }));
  }

  tip(root, x, y, width) {
    const nearest = this.points.reduce((best, point) => Math.abs(x(point[0]) - this.hover) < Math.abs(x(best[0]) - this.hover) ? point : best);
    const at = x(nearest[0]), right = at > width - 190;
    root.append(svg("line", { x1: at, x2: at, y1: 8, y2: y(0), class: "cursor" }));
    for (const [series, name] of [[1, "sent"], [2, "received"]]) root.append(svg("circle", { cx: at, cy: y(nearest[series]), r: 4, class: `dot ${name}` }));
    const box = svg("g", { transform: `translate(${right ? at - 178 : at + 10} 12)` }, svg("rect", { width: 168, height: 62, rx: 8, class: "tip" }),
      svg("text", { x: 12, y: 19, class: "axis" }, new Date(nearest[0] * 1000).toLocaleTimeString()),
      svg("text", { x: 12, y: 37, class: "tip-text sent" }, `to clients ${bits(nearest[1])}`),
      svg("text", { x: 12, y: 54, class: "tip-text received" }, `from clients ${bits(nearest[2])}`));
    root.append(box);
  }
}

/* The last minute of one client, both directions together. */
function sparkline(values) {
  const width = 84, height = 24, most = Math.max(1000, ...values), step = width / 59, offset = 60 - values.length;
  const path = values.map((value, index) => `${index ? "L" : "M"}${((index + offset) * step).toFixed(1)} ${(height - 2 - (height - 4) * value / most).toFixed(1)}`).join("");
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "spark", "aria-hidden": "true" }, svg("path", { d: path || "M0 0", class: "line sent" }));
}
