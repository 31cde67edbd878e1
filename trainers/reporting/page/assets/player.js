// A completion written step by step: at step s every token is visible that the first s evaluations revealed.

const ICONS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z", back: "M11 3v10L4 8z", play: "M4 2v12l9-6z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z", next: "M5 3v10l7-5z", last: "M11 3h2v10h-2zM3 3v10l7-5z",
};
const PLAYING_TIME = 8000, SLOWEST = 700; // milliseconds: of a whole completion, of one step

function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
    svg("path", { d: ICONS[name] }));
}

function visible(text) {
  if (text === "") return "∅";
  return text.replace(/\n/g, "⏎").replace(/^ +$/, (spaces) => "␣".repeat(spaces.length));
}

// play: tokens, steps (-1: never revealed), logps, length, finish. greedy: nothing was drawn, so no probabilities.
function player({ play, greedy }) {
  const steps = Math.max(-1, ...play.steps) + 1;
  let at = askedNumber("at", steps, steps), colour = asked.get("colour") === "probability" ? "probability" : "step";
  let timer = null;
  const chips = play.tokens.map((token, i) => chip(play, i, token));
  const slider = el("input", { type: "range", min: 0, max: steps, "aria-label": "step", oninput: () => go(Number(slider.value)) });
  const told = el("output", { class: "told" }), scale = el("div", { class: "scale" });
  const button = (name, label, action) =>
    el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: action }, icon(name));
  const toggle = button("play", "play", () => (timer === null ? start() : stop()));
  const root = el("div", { class: "player", "data-steps": steps },
    el("div", { class: "controls" },
      button("first", "to the start", () => go(0)), button("back", "one step back", () => go(at - 1)), toggle,
      button("next", "one step on", () => go(at + 1)), button("last", "to the end", () => go(steps)), slider, told),
    el("div", { class: "canvas" }, chips),
    el("div", { class: "controls" },
      choice("colour by", greedy ? ["step"] : ["step", "probability"], colour, (name) => { colour = name; paint(); }),
      scale));

  function paint() {
    const byStep = greedy || colour === "step";
    scale.replaceChildren(
      el("span", {}, byStep ? "first step" : "p = 0"),
      el("i", { style: `background: ${gradient(byStep ? VIRIDIS : CIVIDIS)}` }),
      el("span", {}, byStep ? "last step" : "p = 1"));
    let shown = 0;
    chips.forEach((node, i) => {
      const step = play.steps[i], open = step >= 0 && step < at;
      shown += open;
      node.textContent = open ? visible(play.tokens[i]) : "";
      node.className = step < 0 ? "never" : open ? (step === at - 1 ? "open new" : "open") : "masked";
      if (i >= play.length) node.classList.add("fill");
      const share = byStep ? step / Math.max(1, steps - 1) : Math.exp(play.logps[i] ?? 0);
      const { background, colour: text } = painted(byStep ? VIRIDIS : CIVIDIS, share);
      node.style.background = open ? background : "";
      node.style.color = open ? text : "";
    });
    root.dataset.at = slider.value = at;
    told.textContent = `step ${at} of ${steps} · ${shown} of ${play.tokens.length} tokens`;
  }
  function move(to) { at = Math.min(Math.max(0, to), steps); paint(); }
  function go(to) { stop(); move(to); }
  function show(name) {
    toggle.replaceChildren(icon(name));
    toggle.setAttribute("aria-label", name);
    toggle.title = name;
  }
  function stop() { if (timer !== null) { clearInterval(timer); timer = null; show("play"); } }
  function start() {
    if (at === steps) move(0);
    show("pause");
    timer = setInterval(() => {
      if (at >= steps || !root.isConnected) return stop();
      move(at + 1);
    }, Math.min(SLOWEST, PLAYING_TIME / Math.max(1, steps)));
  }
  paint();
  if (asked.has("play")) start();
  return root;
}

function chip(play, i, token) {
  const step = play.steps[i], logp = play.logps[i];
  const told = step < 0 ? "never revealed: the text had ended before"
    : `step ${step + 1}` + (logp == null ? "" : `, p = ${number(Math.exp(logp))}`);
  return el("span", {
    style: `min-width: calc(${Math.min(12, Math.max(1, [...token].length))}ch + 0.5em)`,
    title: `${i + 1}: ${JSON.stringify(token)}, ${told}`, "data-step": step,
  });
}
