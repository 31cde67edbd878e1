// Elements, numbers and the state in the address. Texts of a run reach the page as text nodes only, never as markup.

const content = JSON.parse(document.getElementById("content").textContent);
const asked = new URLSearchParams(location.hash.slice(1)); // #at=3&colour=probability: how the page opens

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null));
  return node;
}

function el(tag, attributes, ...children) {
  return put(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function number(value) {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size > 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

function percent(value) {
  return value == null ? "–" : `${(100 * value).toFixed(1)}%`;
}

function askedNumber(name, otherwise, most) {
  const value = Number(asked.get(name) ?? otherwise);
  return Number.isFinite(value) ? Math.min(Math.max(0, Math.round(value)), most) : otherwise;
}

// Buttons of which one is pressed; tells `chosen` which.
function choice(label, names, first, chosen) {
  const buttons = names.map((name) =>
    el("button", { type: "button", onclick: () => press(name) }, String(name)));
  function press(name) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", names[i] === name));
    chosen(name);
  }
  const first_ = names.includes(first) ? first : names[0];
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", names[i] === first_));
  return el("div", { class: "choice", role: "group", "aria-label": label },
    el("span", { class: "label" }, label), buttons);
}

function section(id, title, note, ...children) {
  return el("section", { id }, el("h2", {}, title), note ? el("p", { class: "note" }, note) : null, children);
}

// Calls `draw` when the box is in the page (`awaited` are run when it is) and whenever its width has changed.
const awaited = [];

function redrawn(box, draw) {
  let width = 0;
  const update = () => {
    if (box.clientWidth && box.clientWidth !== width) {
      width = box.clientWidth;
      draw(width);
    }
  };
  new ResizeObserver(update).observe(box);
  awaited.push(update);
}
