// Puts the page together.

function theme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const set = (name) => { document.documentElement.dataset.theme = name; };
  set(asked.get("theme") || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => set(dark.matches ? "dark" : "light"));
  return el("button", {
    type: "button", class: "theme",
    onclick: () => set(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  }, "light / dark");
}

function facts(entries) {
  return el("dl", { class: "facts" }, entries.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// The numbers that a reader looks for first.
function summary() {
  const { metrics } = content.curves, tiles = [];
  const ends = (key) => metrics[key] && [metrics[key][1][0], metrics[key][1].at(-1)];
  const [before, after] = ["before", "after"].map((when) => (content.held_out || {})[when] || {});
  for (const name of ["sampled strict", "greedy strict"]) {
    if (after[name]) tiles.push([`accuracy, ${name.replace(" strict", "")}`, before[name] ? `${percent(before[name].value)} → ${percent(after[name].value)}` : percent(after[name].value)]);
  }
  const loss = metrics.reward ? [] : [["eval_loss", "evaluation loss"]]; // the loss of GRPO is near 0 whatever happens
  for (const [key, name] of [["reward", "reward"], ["nelbo", "NELBO, nats"], ["rewards/margins", "margin"], ...loss]) {
    if (ends(key)) tiles.push([`${name}, first → last logged`, ends(key).map(number).join(" → ")]);
  }
  if (content.seconds.total) tiles.push(["minutes", number(content.seconds.total / 60)]);
  return el("div", { class: "tiles" }, tiles.map(([name, value]) => el("div", {}, el("span", {}, name), el("b", {}, value))));
}

function settingsSection() {
  return section("settings", "Settings and versions", null,
    el("h3", {}, "Command"), el("pre", {}, content.command),
    el("div", { class: "pair" },
      el("div", {}, el("h3", {}, "Settings that deviate from the defaults"), el("pre", {}, content.settings)),
      el("div", {}, el("h3", {}, "Machine and versions"), facts(Object.entries(content.environment)))),
    content.notes.length ? [el("h3", {}, "Notes"), el("ul", {}, content.notes.map((note) => el("li", {}, note)))] : null);
}

function run() {
  const sections = [curvesSection(), heldOutSection(), playedSection(), rolloutsSection(), solvedSection(), settingsSection()]
    .filter(Boolean);
  const links = sections.map((own) => el("a", { href: `#${own.id}` }, own.firstChild.textContent));
  return [el("header", { class: "top" }, el("h1", {}, content.title), theme()), summary(),
    el("nav", {}, links), el("main", {}, sections)];
}

function completion() {
  const { prompt, text, play, greedy } = content.completion;
  return [el("header", { class: "top" }, el("h1", {}, content.title), theme()),
    el("main", {}, el("section", {},
      el("h3", {}, "Prompt"), el("pre", { class: "prompt" }, prompt), player({ play, greedy }),
      el("h3", {}, "Text"), el("pre", {}, text), facts(Object.entries(content.told))))];
}

document.getElementById("page").append(...(content.kind === "run" ? run() : completion()));
awaited.splice(0).forEach((update) => update());
// sections are made here, after the browser has looked for the one that the address names
document.getElementById(location.hash.slice(1))?.scrollIntoView();
document.documentElement.dataset.ready = "true";
