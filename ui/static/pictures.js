// The cards of the pictures. `props.value` is a list of items (ui/pictures.py); cards are built with DOM calls, never from
// strings, so that a caption is text whatever it holds. What training makes of each comes as events of the document.
const bar = part('div', 'picture-bar');
const grid = part('div', 'picture-grid');
grid.setAttribute('role', 'list');
grid.setAttribute('aria-label', 'Pictures');
const tagList = part('div', 'picture-tags');
element.replaceChildren(bar, tagList, grid);
const cards = new Map();
let looks = { pictures: {}, tags: [] };
let flags = {};
let filter = null;
let timer = 0;

// Tells Python, which keeps the cards for the next time the page is opened.
function keep() {
  clearTimeout(timer);
  timer = setTimeout(() => trigger('input'), 250);
}

function items() {
  return Array.isArray(props.value) ? props.value : [];
}

function put(path, values) {
  props.value = items().map((item) => (item.path === path ? { ...item, ...values } : item));
  const look = looks.pictures?.[path];
  if ('frame' in values && look) Object.assign(look, { size: '', part: null }); // until the server has looked at it
  keep();
  const item = items().find((other) => other.path === path);
  if (item && cards.has(path)) update(cards.get(path), item);
}

// As text: Gradio refuses a {path} it did not upload.
function edited(before, what, name) {
  trigger('edited', { before: JSON.stringify(before), what, name });
}

function remove(path) {
  const before = items();
  const index = before.findIndex((item) => item.path === path);
  props.value = before.filter((item) => item.path !== path);
  edited(before, 'removed', before[index].name);
  keep();
  render();
  grid.querySelectorAll('.remove')[Math.min(index, props.value.length - 1)]?.focus();
}

function makeCard(path) {
  const figure = part('figure', 'picture-card');
  figure.setAttribute('role', 'listitem');
  const view = part('button', 'view');
  view.type = 'button';
  const sheet = part('span', 'picture-frame');
  const image = part('img');
  image.loading = 'lazy';
  const seen = part('i', 'seen');
  sheet.append(image, seen);
  view.append(sheet);
  view.addEventListener('click', () => openDialog(path));
  const facts = part('p', 'facts');
  const marks = part('p', 'marks');
  const text = part('textarea');
  text.rows = 3;
  text.placeholder = 'caption';
  text.addEventListener('input', () => put(path, { caption: text.value }));
  const button = part('button', 'remove', '×');
  button.type = 'button';
  button.title = 'Take this picture out';
  button.addEventListener('click', () => remove(path));
  figure.append(view, button, facts, marks, text);
  return { figure, view, sheet, image, seen, facts, marks, text, button };
}

// Of the caption only what is not being typed here.
function update(card, item) {
  const look = looks.pictures?.[item.path] || {};
  if (card.image.getAttribute('src') !== item.thumb) card.image.src = item.thumb;
  card.image.alt = item.caption || item.name;
  card.view.title = item.name;
  card.view.setAttribute('aria-label', `Enlarge ${item.name}`);
  card.button.setAttribute('aria-label', `Take ${item.name} out`);
  card.text.setAttribute('aria-label', `Caption of ${item.name}`);
  if (card.text.value !== item.caption) card.text.value = item.caption;
  card.sheet.style.aspectRatio = `${item.width || 1} / ${item.height || 1}`;
  card.sheet.classList.toggle('tall', item.height > item.width);
  lay(card.seen, look.part || item.frame);
  card.facts.textContent = [look.size || `${item.width} x ${item.height}`, look.crop].filter(Boolean).join(', ');
  card.marks.replaceChildren(...marksOf(item));
}

function marksOf(item) {
  const words = [];
  if (item.repeats !== 1) words.push(part('span', '', `${item.repeats} times`));
  if (item.weight !== 1) words.push(part('span', '', `weight ${item.weight}`));
  if (item.frame) words.push(part('span', '', 'framed'));
  if (item.mask) words.push(part('span', '', 'masked'));
  for (const flag of flags[item.path] || []) words.push(flagOf(item, flag));
  return words;
}

function flagOf(item, flag) {
  if (!flag.frame) {
    const word = part('span', 'flag', flag.word);
    word.title = `${item.name} ${flag.what}`;
    return word;
  }
  const button = part('button', 'flag', 'Cut the border');
  button.type = 'button';
  button.title = `${item.name} ${flag.what}`;
  button.addEventListener('click', () => {
    const before = items();
    put(item.path, { frame: flag.frame });
    edited(before, 'cut', item.name);
  });
  return button;
}

// Those with the tag that is pressed; all without one.
function shown() {
  return items().filter((item) => filter === null || looks.pictures?.[item.path]?.tags?.includes(filter));
}

function render() {
  const list = items();
  const there = new Set(list.map((item) => item.path));
  for (const path of [...cards.keys()]) if (!there.has(path)) cards.delete(path);
  for (const item of list) {
    if (!cards.has(item.path)) cards.set(item.path, makeCard(item.path));
    update(cards.get(item.path), item);
  }
  const figures = shown().map((item) => cards.get(item.path).figure);
  if (figures.length !== grid.children.length || figures.some((figure, at) => grid.children[at] !== figure)) {
    grid.replaceChildren(...figures);
  }
  grid.tabIndex = figures.length ? 0 : -1; // it scrolls
}

function renderTags() {
  const tags = items().length ? looks.tags || [] : [];
  const several = tags.filter(([, count]) => count < items().length || tags.length > 1);
  const chips = several.map(([tag, count], number) => {
    const chip = part('button', 'chip', `${tag.slice(0, 60)} ${count}`);
    chip.type = 'button';
    chip.setAttribute('aria-pressed', String(filter === number));
    chip.addEventListener('click', () => {
      filter = filter === number ? null : number;
      render();
      renderTags();
      tagList.querySelectorAll('.chip')[number]?.focus();
    });
    return chip;
  });
  if (filter !== null) chips.unshift(part('span', 'filtered', `${grid.children.length} of ${items().length} shown:`));
  tagList.replaceChildren(...chips);
  tagList.setAttribute('role', 'group');
  tagList.setAttribute('aria-label', 'Tags of the captions; one shows only its pictures');
}

document.addEventListener('picture-looks', (event) => {
  const spelt = filter === null ? null : looks.tags[filter]?.[0];
  looks = event.detail || { pictures: {}, tags: [] };
  const again = spelt === null ? -1 : (looks.tags || []).findIndex(([tag]) => tag === spelt);
  filter = again < 0 ? null : again;
  render();
  renderTags();
  redraw();
});
// A model has captioned pictures: the card takes the caption once, and a person may go on from there.
const heard = { mark: 0, paths: new Set() };
document.addEventListener('picture-said', ({ detail }) => {
  if (!detail?.captions) return;
  if (heard.mark !== detail.mark) Object.assign(heard, { mark: detail.mark, paths: new Set() });
  for (const [path, caption] of Object.entries(detail.captions)) {
    if (heard.paths.has(path)) continue;
    heard.paths.add(path);
    const own = items().find((item) => item.path === path)?.caption.trim();
    if (!(detail.only_empty && own)) put(path, { caption }); // typed in the meantime
  }
});
document.addEventListener('picture-flags', (event) => {
  flags = event.detail || {};
  render();
});
watch('value', () => {
  keep();
  render();
});
render();
