// Held-out problems: which were solved before and after, with their texts; the first ones are played.

const PAGE = 20; // problems shown at a time

function solvedSection() {
  const { solved } = content;
  if (!solved) return null;
  const place = el("div");
  let mode = solved.modes.includes(asked.get("mode")) ? asked.get("mode") : solved.modes[0];
  let filter = asked.get("filter"), text = asked.get("q") || "", shown = PAGE;
  const search = el("input", {
    type: "search", placeholder: "search the texts", value: text, "aria-label": "search the texts",
    oninput: () => { text = search.value; shown = PAGE; list(); },
  });
  const matrix = el("div", { class: "matrix" }), items = el("div", { class: "items" });
  function counts() {
    matrix.replaceChildren(...Object.entries(solved.counts[mode]).map(([name, count]) => el("button", {
      type: "button", class: name.replace(" ", "-"), "aria-pressed": String(filter === name),
      onclick: () => { filter = filter === name ? null : name; shown = PAGE; counts(); list(); },
    }, el("b", {}, String(count)), name)));
  }
  function list() {
    const wanted = text.toLowerCase();
    const found = solved.rows.filter((row) => (!filter || row.class[mode] === filter) && (!wanted || has(row, wanted)));
    const all = filter ? solved.counts[mode][filter] : solved.total;
    items.replaceChildren(
      el("p", { class: "note" }, `${found.length} problems` +
        (solved.rows.length < solved.total && !wanted ? `; ${all - found.length} more are left out of this page` : "")),
      ...found.slice(0, shown).map((row) => problem(row, mode)),
      ...(found.length > shown ? [el("button", { type: "button", onclick: () => { shown += PAGE; list(); } }, "show more")] : []));
  }
  counts();
  list();
  place.append(
    choice("decoding", solved.modes, mode, (name) => { mode = name; counts(); list(); }), matrix, search, items);
  return section("solved", "Problems solved", "Held-out problems, strictly judged" +
    ("fixed" in solved.counts[mode] ? ": before training against after. Press a count to see its problems." : "."), place);
}

function has(row, wanted) {
  const texts = Object.values(row.texts).flatMap((own) => Object.values(own));
  return [row.prompt, row.answer, ...texts].some((text) => text.toLowerCase().includes(wanted));
}

function problem(row, mode) {
  return el("article", { "data-place": row.place },
    el("header", {}, el("span", { class: `tag ${row.class[mode].replace(" ", "-")}` }, row.class[mode]), `problem ${row.place + 1}`),
    el("pre", {}, row.prompt),
    el("dl", {}, el("div", {}, el("dt", {}, "right answer"), el("dd", {}, row.answer)),
      Object.entries(row.texts).map(([when, own]) => el("div", {}, el("dt", {}, when), el("dd", {}, own[mode])))));
}

function playedSection() {
  const played = content.solved ? content.solved.played : [];
  if (!played.length) return null;
  const { modes } = content.solved;
  let place = askedNumber("problem", 0, played.length - 1), mode = modes.includes(asked.get("mode")) ? asked.get("mode") : modes[0];
  const body = el("div");
  function show() {
    const row = played[place];
    body.replaceChildren(el("pre", { class: "prompt" }, row.prompt),
      el("div", { class: "pair" }, Object.entries(row.play).filter(([, own]) => own[mode]).map(([when, own]) =>
        el("div", { "data-when": when }, el("h3", {}, `${when} training`), player({ play: own[mode], greedy: mode === "greedy" })))));
  }
  const select = el("select", { "aria-label": "problem", onchange: () => { place = Number(select.value); show(); } },
    played.map((row, i) => el("option", { value: i }, `problem ${row.place + 1}`)));
  select.value = place;
  show();
  return section("denoising", "Denoising, step by step",
    "A diffusion model fills in a canvas of masked tokens. Press play, or drag the slider. Greedy decoding takes the likeliest tokens and draws none, so it has no probabilities.",
    el("div", { class: "controls" }, select, choice("decoding", modes, mode, (name) => { mode = name; show(); })), body);
}
