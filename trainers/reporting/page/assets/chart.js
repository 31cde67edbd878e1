// A line chart or stacked areas over optimiser steps, with a legend and the values under the pointer.

const HEIGHT = 210, TOP = 24, BOTTOM = 34, RIGHT = 14;

// About `count` round numbers that cover a range.
function ticks(low, high, count, whole) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function extent(values, fromZero) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (fromZero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
  return [fromZero && low === 0 ? 0 : low - room, high + room];
}

// lines: {name, colour, dash, xs, ys, error (half width of the band, or null), total}; stacked lines share their xs.
// `range` is that of the x-axis; `head` stands in place of the title.
function chart({ title, unit, lines, stacked, range, head }) {
  const plot = el("div", { class: "plot" }), tip = el("div", { class: "tip", hidden: true });
  const fromZero = stacked || unit.startsWith("share") || unit === "tokens";
  const drawn = stacked ? stack(lines) : lines;
  const low = (line, i) => line.ys[i] - (line.error ? line.error[i] : 0);
  const high = (line, i) => line.ys[i] + (line.error ? line.error[i] : 0);
  const [bottom, top] = extent(drawn.flatMap((line) =>
    line.ys.flatMap((_, i) => [low(line, i), high(line, i)])), fromZero);
  const [left, right] = range;

  function draw(width) {
    const marks = ticks(bottom, top, 4, false), labels = marks.map(number);
    const margin = 10 + 6.4 * Math.max(...labels.map((label) => label.length));
    const x = (step) => margin + ((step - left) / (right - left)) * (width - margin - RIGHT);
    const y = (value) => TOP + ((top - value) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
    const cursor = svg("g", { class: "cursor" });
    const picture = svg("svg", { width, height: HEIGHT, role: "img", "aria-label": `${title}, ${unit}` },
      marks.map((mark, i) => [
        svg("line", { class: "rule", x1: margin, x2: width - RIGHT, y1: y(mark), y2: y(mark) }),
        svg("text", { class: "tick", x: margin - 6, y: y(mark) + 4, "text-anchor": "end" }, labels[i]),
      ]),
      ticks(left, right, Math.max(2, Math.min(6, Math.floor(width / 90))), true).map((step) =>
        svg("text", { class: "tick", x: x(step), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, number(step))),
      svg("text", { class: "unit", x: 2, y: 12 }, unit),
      svg("text", { class: "unit", x: width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "optimiser step"),
      (stacked ? [...drawn].reverse() : drawn).map((line) => shape(line, x, y, stacked)),
      cursor);
    plot.replaceChildren(picture, tip);
    const read = (step) => point(step, { drawn, lines, x, y, cursor, tip, width });
    picture.addEventListener("pointermove", (event) => {
      const at = event.clientX - picture.getBoundingClientRect().left;
      read(left + ((at - margin) / (width - margin - RIGHT)) * (right - left));
    });
    picture.addEventListener("pointerleave", () => { tip.hidden = true; cursor.replaceChildren(); });
    if (asked.has("read")) read(Number(asked.get("read")));
  }
  redrawn(plot, draw);
  return el("figure", { class: "card", "data-title": title }, el("figcaption", {}, head || title), legend(lines), plot);
}

// Each line on top of those before it; a step that a line was not logged at counts as 0.
function stack(lines) {
  const steps = [...new Set(lines.flatMap((line) => line.xs))].sort((a, b) => a - b);
  let below = steps.map(() => 0);
  return lines.map((line) => {
    const known = new Map(line.xs.map((step, i) => [step, line.ys[i]])), base = below;
    below = steps.map((step, i) => base[i] + (known.get(step) ?? 0));
    return { ...line, xs: steps, ys: below, base };
  });
}

function shape(line, x, y, stacked) {
  const points = line.xs.map((step, i) => [x(step), y(line.ys[i])]);
  const path = (list) => list.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  if (stacked) {
    const base = line.xs.map((step, i) => [x(step), y(line.base[i])]).reverse();
    return svg("polygon", { points: path([...points, ...base]), class: "area", style: `fill: var(${line.colour})` });
  }
  const band = line.error && svg("polygon", {
    class: "band", style: `fill: var(${line.colour})`,
    points: path([
      ...line.xs.map((step, i) => [x(step), y(line.ys[i] + line.error[i])]),
      ...line.xs.map((step, i) => [x(step), y(line.ys[i] - line.error[i])]).reverse()]),
  });
  const dots = points.length > 40 ? [] : points.map(([a, b]) =>
    svg("circle", { cx: a, cy: b, r: 2.4, style: `fill: var(${line.colour})` }));
  return svg("g", {}, band, svg("polyline", {
    class: "line", points: path(points), "stroke-dasharray": line.dash, style: `stroke: var(${line.colour})`,
  }), dots);
}

// The values at the logged step that is nearest to the pointer.
function point(step, { drawn, lines, x, y, cursor, tip, width }) {
  const near = (xs) => xs.reduce((best, own) => (Math.abs(own - step) < Math.abs(best - step) ? own : best));
  const at = near([...new Set(drawn.flatMap((line) => line.xs))]);
  cursor.replaceChildren(svg("line", { x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM }));
  const rows = lines.map((line, n) => {
    const i = line.xs.indexOf(at);
    if (i < 0) return null;
    const top = drawn[n].ys[drawn[n].xs.indexOf(at)];
    cursor.append(svg("circle", { cx: x(at), cy: y(top), r: 4, style: `fill: var(${line.colour})` }));
    return el("div", {}, swatch(line), el("span", {}, line.name),
      el("b", {}, number(line.ys[i]) + (line.error ? ` ± ${number(line.error[i])}` : "")));
  });
  tip.replaceChildren(el("div", { class: "when" }, `step ${number(at)}`), ...rows.filter(Boolean));
  tip.hidden = false;
  const side = x(at) > width / 2 ? x(at) - tip.offsetWidth - 10 : x(at) + 10;
  tip.style.left = `${Math.max(0, Math.min(side, width - tip.offsetWidth))}px`;
}

function swatch(line) {
  return el("i", { class: line.dash ? "swatch dashed" : "swatch", style: `color: var(${line.colour})` });
}

function legend(lines) {
  return el("div", { class: "legend" }, lines.map((line) =>
    el("span", {}, swatch(line), line.name)));
}
