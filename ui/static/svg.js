// What both kinds of charts draw with; put before `chart.js` and `plot.js`.
const SVG = 'http://www.w3.org/2000/svg';
const COLOURS = 8;

function node(parent, name, attributes = {}, text = '') {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function ticks(low, high, count) {
  const span = Math.max(high - low, 1e-12);
  const unit = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10, 20].map((factor) => factor * unit).find((size) => span / size <= count) || 20 * unit;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, at) => (first + at) * step);
}
