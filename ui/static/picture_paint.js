// Parts that the cards and the dialog share, and the mask that is painted in the dialog: white is learnt, black is not.
function part(tag, className = '', text = '') {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function action(words, act, label = '') {
  const made = part('button', '', words);
  made.type = 'button';
  if (label) made.setAttribute('aria-label', label);
  made.addEventListener('click', act);
  return made;
}

function labelled(words, input) {
  const label = part('label', '', words);
  label.append(input);
  return label;
}

// Puts a box where the frame is, in fractions of what it lies in; without one it is not seen.
function lay(box, frame) {
  box.hidden = !frame;
  if (!frame) return;
  const [left, top, right, bottom] = frame.map((side) => side * 100);
  Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
}

// A canvas over the picture. `begun` says whether there is a mask, `changed` whether it was painted since it was shown.
const paint = { canvas: part('canvas', 'paint'), begun: false, changed: false, black: false, size: 12, last: null };

paint.shape = (width, height) => {
  if (paint.canvas.width === width && paint.canvas.height === height) return;
  paint.canvas.width = width;
  paint.canvas.height = height;
};

paint.show = (image) => {
  paint.begun = Boolean(image);
  paint.changed = false;
  const pen = paint.canvas.getContext('2d');
  pen.clearRect(0, 0, paint.canvas.width, paint.canvas.height);
  if (image) pen.drawImage(image, 0, 0, paint.canvas.width, paint.canvas.height);
  paint.canvas.hidden = !paint.begun;
};

// What a first stroke leaves untouched is the opposite of it.
paint.begin = () => {
  if (paint.begun) return;
  paint.begun = true;
  paint.canvas.hidden = false;
  const pen = paint.canvas.getContext('2d');
  pen.fillStyle = paint.black ? '#ffffff' : '#000000';
  pen.fillRect(0, 0, paint.canvas.width, paint.canvas.height);
};

paint.place = (event) => {
  const box = paint.canvas.parentElement.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * paint.canvas.width,
    ((event.clientY - box.top) / box.height) * paint.canvas.height,
  ];
};

paint.stroke = (event) => {
  paint.begin();
  const at = paint.place(event);
  const from = paint.last || at;
  const pen = paint.canvas.getContext('2d');
  pen.strokeStyle = paint.black ? '#000000' : '#ffffff';
  pen.lineCap = 'round';
  pen.lineWidth = (paint.size / 100) * Math.min(paint.canvas.width, paint.canvas.height);
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(at[0] + 0.01, at[1]); // a click is a dot
  pen.stroke();
  paint.last = at;
  paint.changed = true;
};

paint.invert = () => {
  if (!paint.begun) return;
  const pen = paint.canvas.getContext('2d');
  pen.globalCompositeOperation = 'difference';
  pen.fillStyle = '#ffffff';
  pen.fillRect(0, 0, paint.canvas.width, paint.canvas.height);
  pen.globalCompositeOperation = 'source-over';
  paint.changed = true;
};

paint.file = async (name) => {
  const blob = await new Promise((done) => paint.canvas.toBlob(done, 'image/png'));
  return new File([blob], `${name.replace(/\.[^.]*$/, '')}.mask.png`, { type: 'image/png' });
};
