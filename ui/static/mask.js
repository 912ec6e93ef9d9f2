// A picture on which a mask is painted in white: `props.value` is {src, mask}, the addresses of both (mask may be empty).
// After each stroke Python is told the mask, a PNG of the size that is painted on; nothing painted is an empty text.
const MOST = 1024; // pixels of a side that is painted on
let painting = null;
let strokes = [];
let shown = '';

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const canvas = make('canvas', { className: 'mask' });
const image = make('img', { alt: 'The start picture' });
const brush = make('input', { type: 'range', min: 1, max: 100, value: 18 });
brush.setAttribute('aria-label', 'Size of the brush');
const erase = make('input', { type: 'checkbox' });
function tool(words, todo) {
  const node = make('button', { type: 'button', textContent: words });
  node.addEventListener('click', todo);
  return node;
}
const tools = make('div', { className: 'mask-tools' },
  make('label', {}, 'Brush ', brush), make('label', {}, erase, ' erase'),
  tool('Undo stroke', () => { if (strokes.length) back(strokes.pop()); }),
  tool('Clear mask', () => { keep(); pen().clearRect(0, 0, canvas.width, canvas.height); tell(); }),
  tool('Remove picture', () => trigger('painted', { remove: true })));
const stage = make('div', { className: 'mask-stage' }, image, canvas);
element.replaceChildren(stage, tools);

function pen() {
  return canvas.getContext('2d', { willReadFrequently: true });
}
function keep() {
  strokes = [...strokes.slice(-19), pen().getImageData(0, 0, canvas.width, canvas.height)];
}
function back(before) {
  pen().putImageData(before, 0, 0);
  tell();
}
function tell() {
  const { data } = pen().getImageData(0, 0, canvas.width, canvas.height);
  let any = false;
  for (let place = 3; place < data.length && !any; place += 4) any = data[place] > 127;
  if (!any) return trigger('painted', { mask: '' });
  const whole = make('canvas', { width: canvas.width, height: canvas.height });
  const flat = whole.getContext('2d');
  flat.fillStyle = '#000';
  flat.fillRect(0, 0, whole.width, whole.height);
  flat.drawImage(canvas, 0, 0);
  trigger('painted', { mask: whole.toDataURL('image/png') });
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}
function line(from, to) {
  const context = pen();
  context.globalCompositeOperation = erase.checked ? 'destination-out' : 'source-over';
  context.strokeStyle = '#fff';
  context.lineCap = context.lineJoin = 'round';
  context.lineWidth = Math.max(1, (Number(brush.value) / 100) * Math.min(canvas.width, canvas.height));
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}
canvas.addEventListener('pointerdown', (event) => {
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  keep();
  painting = place(event);
  line(painting, painting);
});
canvas.addEventListener('pointermove', (event) => {
  if (!painting) return;
  const next = place(event);
  line(painting, next);
  painting = next;
});
function end() {
  if (!painting) return;
  painting = null;
  tell();
}
canvas.addEventListener('pointerup', end);
canvas.addEventListener('pointercancel', end);

function render() {
  const { src, mask } = props.value || {};
  element.style.display = src ? '' : 'none';
  if (!src || src === shown) return;
  shown = src;
  strokes = [];
  image.onload = () => {
    const scale = Math.min(1, MOST / Math.max(image.naturalWidth, image.naturalHeight));
    canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
    if (!mask) return;
    const before = make('img', { src: mask });
    before.onload = () => {
      pen().drawImage(before, 0, 0, canvas.width, canvas.height);
      const pixels = pen().getImageData(0, 0, canvas.width, canvas.height);
      for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at];
      pen().putImageData(pixels, 0, 0);
    };
  };
  image.src = src;
}
watch('value', () => {
  if (!(props.value || {}).src) shown = '';
  render();
});
render();
