// Charts of points and lines inside of HTML: `props.value` is HTML, and each element with `data-plot` in it becomes an SVG.
// The data are what ui/plot.py makes: {title, x, y, label, series: [{name, line, named, points: [{x, y, words, spread, best}]}]}.
// Hover or the arrow keys read the points.
const HEIGHT = 270;
const EDGE = { left: 58, right: 18, top: 26, bottom: 40 };

function shortly(value) {
  return Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-4) ? value.toExponential(1) : String(+value.toPrecision(4));
}

function limits(values, share) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = share * (high - low) || 0.1 * Math.abs(high) || 1;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
}

function frame(points, width) {
  const [left, right] = limits(points.map(({ x }) => x), 0.06);
  const [bottom, top] = limits(points.flatMap(({ y, spread }) => [y - spread, y + spread]), 0.1);
  const [across, down] = [width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
  return {
    left, right, bottom, top,
    x: (value) => EDGE.left + (across * (value - left)) / (right - left),
    y: (value) => EDGE.top + down * (1 - (value - bottom) / (top - bottom)),
  };
}

function axes(svg, data, view, width) {
  const base = HEIGHT - EDGE.bottom;
  for (const value of ticks(view.bottom, view.top, 5)) {
    node(svg, 'line', { class: 'grid', x1: EDGE.left, x2: width - EDGE.right, y1: view.y(value), y2: view.y(value) });
    node(svg, 'text', { x: EDGE.left - 6, y: view.y(value) + 4, 'text-anchor': 'end' }, shortly(value));
  }
  for (const value of ticks(view.left, view.right, Math.max(3, Math.floor(width / 100)))) {
    node(svg, 'text', { x: view.x(value), y: base + 16, 'text-anchor': 'middle' }, shortly(value));
  }
  node(svg, 'line', { class: 'axis', x1: EDGE.left, x2: width - EDGE.right, y1: base, y2: base });
  node(svg, 'text', { class: 'name', x: width - EDGE.right, y: HEIGHT - 6, 'text-anchor': 'end' }, data.x);
  node(svg, 'text', { class: 'name', x: 6, y: 16 }, data.y);
}

function marks(svg, data, view) {
  const [drawn, names] = [[], []];
  data.series.forEach((one, number) => {
    const group = node(svg, 'g', { class: `series c${number % COLOURS}` });
    if (one.line && one.points.length > 1) {
      node(group, 'polyline', { points: one.points.map(({ x, y }) => `${view.x(x).toFixed(1)},${view.y(y).toFixed(1)}`).join(' ') });
    }
    for (const point of one.points) {
      const [x, y] = [view.x(point.x), view.y(point.y)];
      if (point.spread) node(group, 'line', { class: 'spread', x1: x, x2: x, y1: view.y(point.y - point.spread), y2: view.y(point.y + point.spread) });
      node(group, 'circle', { class: 'validation', cx: x, cy: y, r: one.points.length > 60 ? 2.2 : 4 });
      if (point.best) node(group, 'circle', { class: 'best', cx: x, cy: y, r: 8 });
      drawn.push({ x, y, words: data.series.length > 1 ? `${one.name}: ${point.words}` : point.words });
      if (one.named) beside(group, names, point.words.split(':')[0], x, y, view.x(view.right));
    }
  });
  return drawn;
}

function beside(group, names, words, x, y, end) {
  const wide = 7 * words.length;
  const left = x + 10 + wide > end ? x - 10 - wide : x + 10;
  const free = [y - 6, y + 18].find((at) => !names.some((other) => other.left < left + wide && left < other.left + other.wide && Math.abs(other.at - at) < 14));
  if (free === undefined) return; // its neighbours' names are there; hovering still reads it
  names.push({ left, wide, at: free });
  node(group, 'text', { x: left, y: free }, words);
}

function listen(svg, drawn, said) {
  let at = -1;
  const ring = node(svg, 'circle', { class: 'ring', r: 0 });
  const read = (index) => {
    at = index;
    const point = drawn[index];
    for (const [key, value] of Object.entries({ cx: point.x, cy: point.y, r: 7 })) ring.setAttribute(key, value);
    said.textContent = point.words;
  };
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const away = drawn.map((point) => (point.x - x) ** 2 + (point.y - y) ** 2);
    read(away.indexOf(Math.min(...away)));
  });
  svg.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    said.setAttribute('role', 'status');
    read((at + step + drawn.length) % drawn.length);
  });
}

function draw(place) {
  const data = JSON.parse(place.dataset.plot);
  const points = data.series.flatMap((one) => one.points);
  if (!points.length) return;
  const figure = document.createElement('figure');
  figure.className = 'curve';
  const caption = document.createElement('figcaption');
  const title = document.createElement('strong');
  title.textContent = data.title;
  caption.append(title);
  data.series.forEach(({ name }, number) => {
    const key = document.createElement('span');
    key.className = `key c${number % COLOURS}`;
    key.textContent = name;
    if (data.series.length > 1) caption.append(key);
  });
  const width = Math.max(240, place.clientWidth || 640);
  const view = frame(points, width);
  const svg = document.createElementNS(SVG, 'svg');
  for (const [key, value] of Object.entries({ width, height: HEIGHT, role: 'img', tabindex: 0, 'aria-label': data.label })) svg.setAttribute(key, value);
  axes(svg, data, view, width);
  const said = document.createElement('p');
  said.className = 'reading';
  said.textContent = 'Hover, or use the arrow keys, to read values.';
  listen(svg, marks(svg, data, view), said);
  figure.append(caption, svg, said);
  place.replaceChildren(figure);
}

function render() {
  for (const place of element.querySelectorAll('[data-plot]')) draw(place);
}

function take() {
  const open = [...element.querySelectorAll('details[open]')].map(({ id }) => id);
  element.innerHTML = props.value || '';
  for (const id of open) document.getElementById(id)?.setAttribute('open', '');
  render();
}

let drawnAt = 0;
watch('value', take);
new ResizeObserver(() => {
  if (Math.abs(drawnAt - element.clientWidth) < 3) return;
  drawnAt = element.clientWidth;
  render();
}).observe(element);
take();
