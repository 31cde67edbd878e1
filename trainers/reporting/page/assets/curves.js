// The panels of curves, one panel for any metric, and held-out accuracy with its intervals.

const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];

function linesOf(keys) {
  const { metrics, errors } = content.curves;
  return keys.filter(({ key }) => metrics[key]).map(({ key, name }, i) => {
    const [xs, ys] = metrics[key], spread = metrics[errors[key]];
    // an exact bound has errors of 0, which are no band
    const known = spread && spread[1].some((error) => error > 0) && new Map(spread[0].map((step, n) => [step, 1.96 * spread[1][n]]));
    const dashed = key === "accuracy/strict" || key.startsWith("eval_") && keys.length > 1 && !keys[0].key.startsWith("eval_");
    return {
      name: known ? `${name} ± 1.96 standard errors` : name,
      colour: COLOURS[i % COLOURS.length], dash: dashed || i >= COLOURS.length ? "5 4" : null, xs, ys,
      error: known ? xs.map((step) => known.get(step) ?? 0) : null,
    };
  });
}

function curvesSection() {
  const { panels, metrics } = content.curves;
  if (!Object.keys(metrics).length) return null;
  const cards = panels.map((panel) => ({ ...panel, lines: linesOf(panel.lines) }))
    .filter((panel) => panel.lines.length).map((panel) => chart({ ...panel, range: allSteps() }));
  return section("curves", "Curves", "Point at a chart to read its values.",
    el("div", { class: "grid" }, cards, anyMetric(Object.keys(metrics))));
}

// All charts have the same x-axis.
function allSteps() {
  const steps = Object.values(content.curves.metrics).map(([xs]) => xs);
  const low = Math.min(...steps.map((xs) => xs[0])), high = Math.max(...steps.map((xs) => xs.at(-1)));
  return low === high ? [low - 1, high + 1] : [low, high];
}

function anyMetric(keys) {
  const place = el("div", { class: "any" }), sorted = [...keys].sort();
  const show = (key) => place.replaceChildren(chart({
    title: key, unit: "as logged", lines: linesOf([{ key, name: key }]), stacked: false, range: allSteps(), head: select,
  }));
  const select = el("select", { "aria-label": "any logged metric", title: "any logged metric", onchange: () => show(select.value) },
    sorted.map((key) => el("option", { value: key }, key)));
  select.value = sorted.includes("learning_rate") ? "learning_rate" : sorted[0];
  show(select.value);
  return place;
}

const WHEN = { before: ["--c2", 12], after: ["--c1", 26] };

function heldOutSection() {
  const measured = Object.keys(WHEN).map((when) => [when, (content.held_out || {})[when]]).filter(([, own]) => own);
  if (!measured.length) return null;
  const names = [...new Set(measured.flatMap(([, own]) => Object.keys(own)))];
  return section("accuracy", "Held-out accuracy",
    "Share of problems solved, with 95% intervals. Strict: the answer in the asked format; lenient: the right number anywhere at the end.",
    el("div", { class: "legend" }, measured.map(([when]) =>
      el("span", {}, swatch({ colour: WHEN[when][0] }), when))),
    el("div", { class: "intervals" }, names.map((name) => intervals(name, measured))));
}

function intervals(name, measured) {
  const plot = el("div", { class: "interval" }), known = measured.filter(([, own]) => own[name]);
  redrawn(plot, (width) => {
    const x = (share) => 4 + share * (width - 8);
    plot.replaceChildren(svg("svg", { width, height: 52, role: "img", "aria-label": `${name}, accuracy` },
      [0, 0.25, 0.5, 0.75, 1].map((share) => [
        svg("line", { class: "rule", x1: x(share), x2: x(share), y1: 4, y2: 36 }),
        svg("text", { class: "tick", x: x(share), y: 49, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" },
          `${100 * share}%`),
      ]),
      known.map(([when, own]) => {
        const [colour, y] = WHEN[when], { value, low, high } = own[name];
        return svg("g", { style: `stroke: var(${colour}); fill: var(${colour})` },
          svg("line", { x1: x(low ?? value), x2: x(high ?? value), y1: y, y2: y, "stroke-width": 3 }),
          svg("circle", { cx: x(value), cy: y, r: 5 }));
      })));
  });
  const told = ({ value, low, high }) => `${percent(value)} [${percent(low)}, ${percent(high)}]`;
  return el("div", {}, el("b", {}, name),
    el("div", { class: "numbers" }, known.map(([when, own]) => el("span", {}, `${when} ${told(own[name])}`))), plot);
}
