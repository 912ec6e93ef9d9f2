// The dialog with one picture, large: its frame, its caption, how often and how strongly it is learnt, its mask.
const dialog = part('dialog', 'picture-dialog');
const title = part('h2');
const stage = part('div', 'stage');
const photo = part('img');
const seenPart = part('i', 'seen');
const frameBox = part('div', 'frame');
frameBox.tabIndex = 0;
frameBox.setAttribute('role', 'group');
frameBox.setAttribute('aria-describedby', 'picture-frame-words');
frameBox.setAttribute('aria-label', 'Frame: arrows move it, + and - zoom, 0 takes the whole picture');
for (const corner of ['nw', 'ne', 'sw', 'se']) {
  const handle = part('b', corner);
  handle.dataset.corner = corner;
  frameBox.append(handle);
}
stage.append(photo, paint.canvas, seenPart, frameBox);
const words = part('p', 'words');
words.id = 'picture-frame-words';
words.setAttribute('role', 'status');
const caption = part('textarea');
caption.rows = 5;
const repeats = numberField(1, LIMITS.repeats, 1);
const weight = numberField(0.05, LIMITS.weight, 0.05);
const remarks = part('ul', 'remarks');
const frameMode = action('Frame', () => setMode(false));
const maskMode = action('Mask', () => setMode(true));
const frameTools = part('div', 'tools');
frameTools.append(
  action('+', () => zoom(1 / 1.1), 'Zoom in'), action('−', () => zoom(1.1), 'Zoom out'), action('Whole picture', () => setFrame(null)),
);
const maskTools = part('div', 'tools');
const brush = action('Brush', () => setPen(false));
const eraser = action('Eraser', () => setPen(true));
const penSize = part('input');
Object.assign(penSize, { type: 'range', min: 2, max: 40, value: 12 });
penSize.addEventListener('input', () => { paint.size = Number(penSize.value); });
maskTools.append(brush, eraser, labelled('Size', penSize), action('Invert', () => paint.invert()), action('No mask', noMask));
let opened = null; // { path, before, drag }
let masking = false;

function numberField(min, max, step) {
  const input = part('input');
  Object.assign(input, { type: 'number', min, max, step: step === 1 ? 1 : 'any' });
  return input;
}

function build() {
  const head = part('header');
  const close = action('Close', () => dialog.close());
  head.append(title, action('‹ Previous', () => turn(-1)), action('Next ›', () => turn(1)), close);
  const modes = part('div', 'tools modes');
  modes.append(frameMode, maskMode);
  const numbers = part('div', 'numbers');
  numbers.append(labelled('Repeats in an epoch', repeats), labelled('Weight of its loss', weight));
  const side = part('div', 'side');
  side.append(modes, frameTools, maskTools, words, labelled('Caption', caption), numbers, remarks);
  const body = part('div', 'body');
  const place = part('div', 'place');
  place.append(stage);
  body.append(place, side);
  dialog.append(head, body);
  element.append(dialog); // Gradio applies rules for narrow screens only inside its page
}

function current() {
  return items().find((item) => item.path === opened?.path);
}

function openDialog(path) {
  opened = { path, before: items(), drag: null };
  setMode(false);
  setPen(false);
  show();
  dialog.showModal();
  frameBox.focus();
}

function show() {
  const item = current();
  const list = shown();
  title.textContent = `${item.name} (${list.indexOf(item) + 1} of ${list.length})`;
  dialog.setAttribute('aria-label', item.name);
  photo.src = item.thumb;
  photo.alt = item.name;
  stage.style.aspectRatio = `${item.width || 1} / ${item.height || 1}`;
  stage.style.setProperty('--shape', (item.width || 1) / (item.height || 1));
  caption.value = item.caption;
  repeats.value = item.repeats;
  weight.value = item.weight;
  paint.show(null);
  redraw();
  trigger('enlarge', { item: JSON.stringify({ path: item.path, mask: item.mask }) });
}

// What was asked for has come: the picture large, and its mask.
document.addEventListener('picture-large', ({ detail }) => {
  if (!detail || detail.path !== opened?.path) return;
  photo.src = detail.url;
  paint.shape(detail.width, detail.height);
  if (!detail.mask) return;
  const mask = new Image();
  mask.onload = () => detail.path === opened?.path && !paint.changed && paint.show(mask);
  mask.src = detail.mask;
});

function redraw() {
  const item = current();
  if (!item || opened.drag?.frame) return;
  lay(frameBox, item.frame || [0, 0, 1, 1]);
  const look = looks.pictures?.[item.path] || {};
  lay(seenPart, look.part || null);
  const box = item.frame || [0, 0, 1, 1];
  const percent = box.map((side) => Math.round(side * 100));
  const pixels = `${Math.round((box[2] - box[0]) * item.width)} x ${Math.round((box[3] - box[1]) * item.height)} px`;
  const frame = item.frame
    ? `Frame of ${pixels}, ${percent[0]} to ${percent[2]} % across, ${percent[1]} to ${percent[3]} % down.`
    : `The whole picture, ${pixels}.`;
  words.textContent = [frame, look.size ? `Trained: ${look.size}.` : '', look.crop].filter(Boolean).join(' ');
  remarks.replaceChildren(...(flags[item.path] || []).map((flag) => part('li', '', `${flag.word}: ${flag.what}`)));
}

function setMode(mask) {
  masking = mask;
  frameTools.hidden = mask;
  maskTools.hidden = !mask;
  frameMode.setAttribute('aria-pressed', String(!mask));
  maskMode.setAttribute('aria-pressed', String(mask));
  stage.classList.toggle('masking', mask);
}

function setPen(black) {
  paint.black = black;
  brush.setAttribute('aria-pressed', String(!black));
  eraser.setAttribute('aria-pressed', String(black));
}

function setFrame(frame) {
  const whole = !frame || (frame[0] < 0.002 && frame[1] < 0.002 && frame[2] > 0.998 && frame[3] > 0.998);
  put(opened.path, { frame: whole ? null : frame.map((side) => Math.round(side * 1e5) / 1e5) });
  redraw();
}

// A frame from its middle and sides, inside the picture.
function framed(x, y, width, height) {
  const left = Math.min(Math.max(0, x - width / 2), 1 - width);
  const top = Math.min(Math.max(0, y - height / 2), 1 - height);
  return [left, top, left + width, top + height];
}

function start() {
  const item = current();
  return item.frame || looks.pictures?.[item.path]?.part || [0, 0, 1, 1];
}

function zoom(factor) {
  const item = current();
  if (!item.frame && factor > 1) return; // there is no more than the whole picture
  const [left, top, right, bottom] = start();
  const [width, height] = [right - left, bottom - top];
  const least = Math.max(LIMITS.side / (width * item.width), LIMITS.side / (height * item.height));
  const scale = Math.min(Math.max(factor, Math.min(1, least)), 1 / width, 1 / height);
  setFrame(framed((left + right) / 2, (top + bottom) / 2, width * scale, height * scale));
}

function move(x, y) {
  const [left, top, right, bottom] = start();
  setFrame(framed((left + right) / 2 + x, (top + bottom) / 2 + y, right - left, bottom - top));
}

function place(event) {
  const box = stage.getBoundingClientRect();
  const inside = (value) => Math.min(1, Math.max(0, value));
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
}

// What a drag at `at` makes of the frame: corners resize, the inside moves, anywhere else draws a new one.
function dragged(drag, [x, y]) {
  const [left, top, right, bottom] = drag.from;
  if (drag.kind === 'move') {
    return framed((left + right) / 2 + x - drag.at[0], (top + bottom) / 2 + y - drag.at[1], right - left, bottom - top);
  }
  const [ax, ay] = drag.anchor;
  const item = current();
  const [w, h] = [LIMITS.side / item.width, LIMITS.side / item.height];
  const [dx, dy] = [Math.max(Math.abs(x - ax), Math.min(w, 1)), Math.max(Math.abs(y - ay), Math.min(h, 1))];
  const [mx, my] = [ax + (x < ax ? -dx : dx) / 2, ay + (y < ay ? -dy : dy) / 2];
  return framed(mx, my, dx, dy);
}

stage.addEventListener('pointerdown', (event) => {
  if (event.button) return;
  event.preventDefault();
  stage.setPointerCapture(event.pointerId);
  if (masking) {
    paint.last = null;
    paint.stroke(event);
    opened.drag = { kind: 'paint' };
    return;
  }
  frameBox.focus();
  const at = place(event);
  const item = current();
  const from = item.frame || [0, 0, 1, 1];
  const { corner } = event.target.dataset;
  const inside = item.frame && at[0] > from[0] && at[0] < from[2] && at[1] > from[1] && at[1] < from[3];
  const anchor = corner ? [corner.includes('w') ? from[2] : from[0], corner.includes('n') ? from[3] : from[1]] : at;
  opened.drag = { kind: corner || !inside ? 'draw' : 'move', from, at, anchor, frame: null };
});
stage.addEventListener('pointermove', (event) => {
  const drag = opened?.drag;
  if (!drag) return;
  if (drag.kind === 'paint') {
    paint.stroke(event);
    return;
  }
  const at = place(event);
  if (!drag.frame && Math.hypot(at[0] - drag.at[0], at[1] - drag.at[1]) < 0.01) return; // a click is no frame
  drag.frame = dragged(drag, at);
  lay(frameBox, drag.frame);
  seenPart.hidden = true;
});
stage.addEventListener('pointerup', () => {
  const frame = opened?.drag?.frame;
  if (opened) opened.drag = null;
  if (frame) setFrame(frame);
});
stage.addEventListener('pointercancel', () => {
  if (opened) opened.drag = null;
  redraw();
});
stage.addEventListener('wheel', (event) => {
  event.preventDefault();
  if (!masking) zoom(event.deltaY < 0 ? 1 / 1.05 : 1.05);
}, { passive: false });

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
frameBox.addEventListener('keydown', (event) => {
  const step = STEPS[event.key];
  const far = event.shiftKey ? 0.1 : 0.01;
  if (step) move(step[0] * far, step[1] * far);
  else if (event.key === '+' || event.key === '=') zoom(1 / 1.1);
  else if (event.key === '-') zoom(1.1);
  else if (event.key === '0') setFrame(null);
  else return;
  event.preventDefault();
});
dialog.addEventListener('keydown', (event) => {
  if (event.key !== 'PageDown' && event.key !== 'PageUp') return;
  event.preventDefault();
  turn(event.key === 'PageDown' ? 1 : -1);
});
caption.addEventListener('input', () => put(opened.path, { caption: caption.value }));
for (const [field, name] of [[repeats, 'repeats'], [weight, 'weight']]) {
  field.addEventListener('input', () => {
    field.setAttribute('aria-invalid', String(!field.value || !field.checkValidity()));
    if (field.value && field.checkValidity()) put(opened.path, { [name]: Number(field.value) });
  });
}

function noMask() {
  paint.show(null);
  put(opened.path, { mask: '' });
}

// The mask that was painted goes to the server as a picture; it is checked there.
async function saveMask() {
  const item = current();
  if (!item || !paint.changed) return;
  paint.changed = false;
  try {
    const { path } = await upload(await paint.file(item.name));
    put(item.path, { mask: path });
  } catch {
    folderNote.textContent = `The mask of ${item.name} could not be uploaded. Paint it again.`;
  }
}

async function turn(step) {
  await saveMask();
  const list = shown();
  const at = list.findIndex((item) => item.path === opened?.path);
  if (!list.length || !opened) return;
  opened.path = list[(at + step + list.length) % list.length].path;
  show();
}

dialog.addEventListener('close', async () => {
  if (!opened) return;
  const { path, before } = opened;
  cards.get(path)?.view.focus();
  await saveMask();
  opened = null;
  const now = items();
  const changed = now.filter((item, at) => JSON.stringify(item) !== JSON.stringify(before[at]));
  if (changed.length) edited(before, 'changed', changed.length === 1 ? changed[0].name : `${changed.length} pictures`);
});
build();
