// Curves of one run or several, drawn here because only the page knows how wide it is. `props.value` is JSON text:
// {title, name, steps, series: [{name, raw, smooth, held, best}]}, each a list of [step, value]. Hover or the arrow keys read
// values, dragging (or + at the cross-hair) zooms into steps, a double click or Escape shows everything again.
const HEIGHT = 260;
const EDGE = { left: 52, right: 14, top: 12, bottom: 34 };
let data = null;
let range = null; // steps shown; null: all
let at = null; // step under the cross-hair
let drag = null;

function shortly(value) {
  return Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
}

function limits(series, [low, high]) {
  const inside = (points) => points.filter(([step]) => step >= low && step <= high).map(([, value]) => value);
  const raw = series.flatMap((one) => inside(one.raw)).sort((a, b) => a - b);
  const other = series.flatMap((one) => [...inside(one.smooth), ...inside(one.held)]);
  const seen = raw.length ? [raw[0], raw[Math.min(raw.length - 1, Math.floor(0.99 * raw.length))], ...other] : other; // a rare spike may leave the frame
  if (!seen.length) return [0, 1];
  const bottom = Math.min(...seen);
  const top = Math.max(...seen);
  const margin = 0.08 * (top - bottom) || 0.1 * Math.abs(top) || 1;
  return [Math.max(0, bottom - margin), top + margin];
}

function near(points, step) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point[0] - step) < Math.abs(best[0] - step)) best = point;
  return best;
}

function frame() {
  const width = Math.max(240, element.clientWidth || 640);
  const shown = range || [0, Math.max(data.steps, 1, ...data.series.map((one) => one.raw.at(-1)?.[0] || 0))];
  const [bottom, top] = limits(data.series, shown);
  const across = width - EDGE.left - EDGE.right;
  const down = HEIGHT - EDGE.top - EDGE.bottom;
  return {
    width, shown, bottom, top,
    x: (step) => EDGE.left + (across * (step - shown[0])) / Math.max(shown[1] - shown[0], 1e-9),
    y: (value) => EDGE.top + down * (1 - (Math.min(Math.max(value, bottom), top) - bottom) / (top - bottom)),
    step: (x) => shown[0] + ((x - EDGE.left) / across) * (shown[1] - shown[0]),
  };
}

function axes(svg, view) {
  const base = HEIGHT - EDGE.bottom;
  for (const value of ticks(view.bottom, view.top, 5)) {
    node(svg, 'line', { class: 'grid', x1: EDGE.left, x2: view.width - EDGE.right, y1: view.y(value), y2: view.y(value) });
    node(svg, 'text', { x: EDGE.left - 6, y: view.y(value) + 4, 'text-anchor': 'end' }, shortly(value));
  }
  for (const step of ticks(...view.shown, Math.max(2, Math.floor(view.width / 110)))) {
    if (step === Math.round(step)) node(svg, 'text', { x: view.x(step), y: base + 16, 'text-anchor': 'middle' }, String(step));
  }
  node(svg, 'line', { class: 'axis', x1: EDGE.left, x2: view.width - EDGE.right, y1: base, y2: base });
  node(svg, 'text', { class: 'name', x: view.width - EDGE.right, y: HEIGHT - 4, 'text-anchor': 'end' }, 'step');
}

function lines(svg, view) {
  const clip = `clip-${element.id}`;
  const box = node(node(svg, 'clipPath', { id: clip }), 'rect');
  const sides = { x: EDGE.left - 4, y: 0, width: view.width - EDGE.left - EDGE.right + 8, height: HEIGHT - EDGE.bottom };
  for (const [key, value] of Object.entries(sides)) box.setAttribute(key, value);
  const all = node(svg, 'g', { 'clip-path': `url(#${clip})` });
  data.series.forEach((one, number) => {
    const group = node(all, 'g', { class: `series c${number % COLOURS}` });
    const path = (points, kind) => {
      const corners = points.map(([step, value]) => `${view.x(step).toFixed(1)},${view.y(value).toFixed(1)}`).join(' ');
      if (points.length > 1) node(group, 'polyline', { class: kind, points: corners });
    };
    if (data.series.length === 1) path(one.raw, 'raw');
    path(one.smooth, 'smooth');
    path(one.held, 'held');
    for (const [step, value] of one.held) node(group, 'circle', { class: 'validation', cx: view.x(step), cy: view.y(value), r: 3 });
    if (one.best) node(group, 'circle', { class: 'best', cx: view.x(one.best[0]), cy: view.y(one.best[1]), r: 6 });
  });
}

function reading(svg, view) {
  if (at === null) return;
  node(svg, 'line', { class: 'cross', x1: view.x(at), x2: view.x(at), y1: EDGE.top, y2: HEIGHT - EDGE.bottom });
}

function words() {
  if (at === null) return 'Hover to read values; drag to zoom, double click for all.';
  const parts = data.series.map((one) => {
    const smooth = near(one.smooth, at);
    const held = near(one.held, at);
    const name = data.series.length > 1 ? `${one.name}: ` : '';
    const own = smooth ? `${shortly(smooth[1])}` : '';
    return `${name}${own}${held ? `, held out ${shortly(held[1])} (step ${held[0]})` : ''}`;
  });
  return `step ${Math.round(at)} · ${parts.join(' · ')}`;
}

function render() {
  element.replaceChildren();
  if (!data || !data.series.some((one) => one.raw.length || one.held.length)) {
    const empty = document.createElement('div');
    empty.className = 'curve-empty';
    empty.textContent = (data && data.empty) || 'The loss curve appears with the first steps.';
    element.append(empty);
    return;
  }
  const figure = document.createElement('figure');
  figure.className = 'curve';
  const caption = document.createElement('figcaption');
  const title = document.createElement('strong');
  title.textContent = data.title;
  caption.append(title);
  data.keys.forEach(({ text, kind, value }) => {
    const key = document.createElement('span');
    key.className = `key ${kind}`;
    key.textContent = text;
    if (value) {
      const bold = document.createElement('b');
      bold.textContent = ` ${value}`;
      key.append(bold);
    }
    caption.append(key);
  });
  const view = frame();
  const svg = document.createElementNS(SVG, 'svg');
  for (const [key, value] of Object.entries({ width: view.width, height: HEIGHT, role: 'img', tabindex: 0, 'aria-label': data.label })) svg.setAttribute(key, value);
  axes(svg, view);
  lines(svg, view);
  reading(svg, view);
  const zone = node(svg, 'rect', { class: 'zone', x: 0, y: 0, width: 0, height: 0 });
  const said = document.createElement('p');
  said.className = 'reading';
  said.textContent = words();
  if (at !== null) said.setAttribute('role', 'status');
  listen(svg, view, zone, said);
  figure.append(caption, svg, said);
  element.append(figure);
}

function listen(svg, view, zone, said) {
  const place = (event) => view.step(event.clientX - svg.getBoundingClientRect().left);
  const clamp = (step) => Math.min(Math.max(step, view.shown[0]), view.shown[1]);
  const read = (step) => {
    at = step;
    svg.querySelector('.cross')?.remove();
    reading(svg, view);
    said.textContent = words();
  };
  svg.addEventListener('pointermove', (event) => {
    read(clamp(place(event)));
    if (drag === null) return;
    const [left, right] = [drag, at].sort((a, b) => a - b);
    const sides = { x: view.x(left), y: EDGE.top, width: view.x(right) - view.x(left), height: HEIGHT - EDGE.top - EDGE.bottom };
    for (const [key, value] of Object.entries(sides)) zone.setAttribute(key, value);
  });
  svg.addEventListener('pointerleave', () => {
    if (drag === null) read(null);
  });
  svg.addEventListener('pointerdown', (event) => {
    if (event.pointerType === 'touch') return;
    drag = clamp(place(event));
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener('pointerup', (event) => {
    if (drag === null) return;
    const [left, right] = [drag, clamp(place(event))].sort((a, b) => a - b);
    drag = null;
    if (right - left > 0.02 * (view.shown[1] - view.shown[0])) show([left, right]);
    else zone.setAttribute('width', 0);
  });
  svg.addEventListener('dblclick', () => show(null));
  svg.addEventListener('keydown', (event) => {
    const size = (view.shown[1] - view.shown[0]) / 50;
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
      event.preventDefault();
      read(clamp((at === null ? view.shown[1] : at) + (event.key === 'ArrowLeft' ? -size : size)));
    } else if (event.key === 'Escape') show(null);
    else if ((event.key === '+' || event.key === '-') && at !== null) {
      const half = (view.shown[1] - view.shown[0]) * (event.key === '+' ? 0.25 : 1);
      show(event.key === '+' ? [at - half, at + half] : null);
    }
  });
}

function show(steps) {
  range = steps;
  render();
  element.querySelector('svg')?.focus({ preventScroll: true });
}

function take() {
  const before = data;
  try {
    data = props.value ? JSON.parse(props.value) : null;
  } catch {
    data = null;
  }
  if (before && data && before.name !== data.name) [range, at] = [null, null];
  if (drag === null) render();
}

watch('value', take);
new ResizeObserver(() => drag === null && data && Math.abs((element.querySelector('svg')?.clientWidth || 0) - element.clientWidth) > 2 && render()).observe(element);
take();
