// Scales that colour-blind readers can tell apart, and that are read in print: viridis for steps, cividis for
// probabilities (Nuñez, Anderton & Renslow 2018). Anchors of equal distance, straight lines between them.

const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
const CIVIDIS = ["#00224e", "#233e6c", "#575d6d", "#7d7c78", "#a59c74", "#d3c164", "#fee838"];

function mixed(scale, share) {
  const place = Math.min(Math.max(share, 0), 1) * (scale.length - 1);
  const low = Math.min(Math.floor(place), scale.length - 2);
  const [from, to] = [scale[low], scale[low + 1]].map((hex) =>
    [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * (place - low)));
}

// Relative luminance of WCAG 2; above 0.18 black text has the larger contrast.
function luminance(rgb) {
  const [r, g, b] = rgb.map((channel) => channel / 255).map((c) =>
    c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function painted(scale, share) {
  const rgb = mixed(scale, share);
  return { background: `rgb(${rgb.join(",")})`, colour: luminance(rgb) > 0.18 ? "#000" : "#fff" };
}

function gradient(scale) {
  return `linear-gradient(to right, ${scale.join(", ")})`;
}
