// Drawn pictures: a click opens one large, beside its pair if it has one, and tells Python what to do with it.
// In the strip a click shows another job, or another page of them.
const dialog = document.createElement('dialog');
dialog.className = 'drawn-large';
document.body.append(dialog);
let order = [];
let at = 0;

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Base and adapted on top of each other, as much of each as the slider says.
function slide(base, adapted, words) {
  const box = make('div', { className: 'slide' });
  const over = make('img', { src: adapted, alt: `${words}, adapted` });
  const range = make('input', { type: 'range', min: 0, max: 100, value: 50 });
  range.setAttribute('aria-label', 'How much is seen of the base');
  const move = () => box.style.setProperty('--at', `${range.value}%`);
  range.addEventListener('input', move);
  move();
  box.append(make('img', { src: base, alt: `${words}, base` }), over, range);
  box.append(make('span', { className: 'left', textContent: 'base' }), make('span', { className: 'right', textContent: 'adapted' }));
  return box;
}

function act(what, file) {
  dialog.close();
  trigger('act', { what, file });
}

function button(words, todo, extra = {}) {
  const node = make('button', { type: 'button', textContent: words, ...extra });
  node.addEventListener('click', todo);
  return node;
}

function show(place) {
  at = (place + order.length) % order.length;
  const { file, src, pair, adapted, caption } = order[at].dataset;
  const picture = pair
    ? slide(adapted === '1' ? pair : src, adapted === '1' ? src : pair, caption)
    : make('img', { src, alt: caption, className: 'single' });
  const link = make('a', { href: src, download: file, textContent: 'Download' });
  const row = make('div', { className: 'row' },
    button('‹ Previous', () => show(at - 1), { disabled: order.length < 2 }),
    button('Next ›', () => show(at + 1), { disabled: order.length < 2 }),
    button('Use these settings', () => act('settings', file), { className: 'main' }),
    button('Use as start picture', () => act('start', file)),
    link,
    button('Delete', () => act('delete', file)),
    button('Close', () => dialog.close()),
  );
  dialog.replaceChildren(picture, make('p', { textContent: caption }), row);
  if (!dialog.open) dialog.showModal();
}

dialog.addEventListener('keydown', (event) => {
  if (event.target.type === 'range') return;
  if (event.key === 'ArrowLeft') show(at - 1);
  if (event.key === 'ArrowRight') show(at + 1);
});
dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
element.addEventListener('click', (event) => {
  const chosen = event.target.closest('button');
  if (!chosen) return;
  const { file, job, page } = chosen.dataset;
  if (file) {
    order = [...element.querySelectorAll('button.open')];
    show(order.indexOf(chosen));
  } else if (job || page) trigger('act', { what: job ? 'job' : 'page', file: job || page });
});
