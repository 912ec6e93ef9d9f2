// The grid of pictures with a caption under each. `props.value` is a list of {path, caption, thumb, note};
// cards are built with DOM calls, never from strings, so that a caption is text whatever it holds.
const grid = document.createElement('div');
grid.className = 'picture-grid';
element.replaceChildren(grid);
let shown = '';
let timer = 0;

// Tells Python, which keeps the cards for the next time the page is opened.
function keep() {
  clearTimeout(timer);
  timer = setTimeout(() => trigger('input'), 250);
}

function change(index, caption) {
  props.value = props.value.map((item, at) => (at === index ? { ...item, caption } : item));
  keep();
}

function remove(index) {
  const gone = JSON.stringify(props.value); // as text: Gradio refuses a {path} it did not upload
  const { name } = props.value[index];
  props.value = props.value.filter((_, at) => at !== index);
  trigger('taken', { gone, name });
  keep();
  render();
  const next = grid.querySelectorAll('button')[Math.min(index, props.value.length - 1)];
  if (next) next.focus();
}

function card(item, index) {
  const figure = document.createElement('figure');
  figure.className = 'picture-card';
  const image = document.createElement('img');
  image.src = item.thumb;
  image.loading = 'lazy';
  image.alt = item.caption || item.name;
  image.title = `${item.name} (${item.note})`;
  const text = document.createElement('textarea');
  text.value = item.caption;
  text.rows = 3;
  text.placeholder = 'caption';
  text.setAttribute('aria-label', `Caption of ${item.name}`);
  text.addEventListener('input', () => change(index, text.value));
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = '×';
  button.title = 'Take this picture out';
  button.setAttribute('aria-label', `Take ${item.name} out`);
  button.addEventListener('click', () => remove(index));
  figure.append(image, button, text);
  return figure;
}

function render() {
  const items = Array.isArray(props.value) ? props.value : [];
  const state = JSON.stringify(items.map((item) => [item.path, item.caption]));
  const texts = JSON.stringify(items.map((_, at) => [items[at].path, grid.querySelectorAll('textarea')[at]?.value]));
  if (state === shown && state === texts) return;
  shown = state;
  grid.replaceChildren(...items.map(card));
}

watch('value', () => {
  keep();
  render();
});
render();
