// The recorded rollouts: choose step and group, compare the completions, play one.

function rolloutsSection() {
  const groups = content.rollouts || [];
  if (!groups.length) return null;
  const steps = [...new Set(groups.map((group) => group.step))];
  let step = steps[askedNumber("rollout", steps.length - 1, steps.length - 1)], group = Number(asked.get("group") ?? 0);
  const body = el("div"), told = el("output", { class: "told" }), choices = el("div");
  const slider = el("input", {
    type: "range", min: 0, max: steps.length - 1, value: steps.indexOf(step), "aria-label": "rollout",
    oninput: () => { step = steps[slider.value]; show(); },
  });
  function show() {
    const here = groups.filter((own) => own.step === step);
    const chosen = here.find((own) => own.group === group) || here[0];
    told.textContent = `rollout after step ${step}`;
    choices.replaceChildren(choice("prompt", here.map((own) => own.group + 1), chosen.group + 1, (name) => {
      group = name - 1;
      show();
    }));
    body.replaceChildren(groupOf(chosen));
  }
  show();
  return section("rollouts", "Rollouts",
    "Completions that the model was trained on: one prompt, a group of completions, and what each earned. The advantage says how much likelier training makes a completion (above 0) or less likely (below).",
    el("div", { class: "controls" }, slider, told), choices, body);
}

function groupOf(group) {
  const names = Object.keys(group.completions[0]?.rewards || {});
  const most = Math.max(1e-9, ...group.completions.map((one) => Math.abs(one.advantage ?? 0)));
  const place = el("div"), rows = group.completions.map((one, i) => el("tr", {
    onclick: () => pick(i), tabindex: 0, onkeydown: (event) => event.key === "Enter" && pick(i),
  },
    cell("no.", String(i + 1)), names.map((name) => cell(name, number(one.rewards[name]))),
    names.length > 1 ? cell("total", number(one.total)) : null,
    cell("advantage", el("span", { class: "advantage" }, bar(one.advantage, most), number(one.advantage))),
    cell("tokens", number(one.length) + (one.finish === "eos" ? "" : " (cut off)")), cell("completion", one.text, "text")));
  function pick(i) {
    rows.forEach((row, n) => row.classList.toggle("picked", n === i));
    const { play } = group.completions[i];
    place.replaceChildren(el("h3", {}, `Completion ${i + 1}, step by step`),
      play ? player({ play, greedy: false }) : el("p", { class: "note" }, "Left out: the page has a limit of size."));
  }
  const head = ["no.", ...names, ...(names.length > 1 ? ["total"] : []), "advantage", "tokens", "completion"];
  const left = group.size - group.completions.length;
  pick(askedNumber("row", best(group.completions), Math.max(0, rows.length - 1)));
  return el("div", {}, el("h3", {}, "Prompt"), el("pre", { class: "prompt" }, group.prompt),
    el("div", { class: "scroll" }, el("table", { class: "rows" },
      el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))), el("tbody", {}, rows))),
    left > 0 ? el("p", { class: "note" }, `${left} more completions of this group are not kept.`) : null, place);
}

function best(completions) {
  return completions.reduce((top, one, i) => (one.play && one.total > (completions[top].total ?? 0) ? i : top), 0);
}

function cell(name, value, kind) {
  return el("td", { "data-name": name, class: kind }, value);
}

function bar(value, most) {
  const share = (value ?? 0) / most, width = 22 * Math.abs(share);
  return svg("svg", { width: 48, height: 12, "aria-hidden": "true" },
    svg("rect", {
      x: share < 0 ? 24 - width : 24, y: 1, width, height: 10,
      style: `fill: var(${share < 0 ? "--c2" : "--c1"})`,
    }),
    svg("line", { class: "axis", x1: 24, x2: 24, y1: 0, y2: 12 }));
}
