// A table whose rows are picked by click, Enter or Space, ticked by their boxes, and sorted by the names of its columns:
// tells Python the row's or the column's name.
let mine = null; // what was ticked by hand, until a table comes that knows of it: an older answer may come before
const boxesOf = () => [...element.querySelectorAll('input[data-tick]')];
new MutationObserver(() => {
  if (!mine) return;
  const differing = boxesOf().filter((box) => box.defaultChecked !== mine.has(box.dataset.tick));
  for (const box of differing) box.checked = !box.defaultChecked;
  if (!differing.length) mine = null;
}).observe(element, { childList: true, subtree: true });
function act(event) {
  const box = event.target.closest('input[data-tick]');
  const sort = event.target.closest('button[data-sort]');
  if (box) {
    // All boxes, not the one: a second click may come before the first is answered.
    const boxes = boxesOf().map((one) => [one.dataset.tick, one.checked]);
    const names = (some) => JSON.stringify(some.map(([name]) => name));
    const ticked = boxes.filter(([, checked]) => checked);
    if (event.type !== 'click') return;
    mine = new Set(ticked.map(([name]) => name));
    trigger('ticked', { shown: names(boxes), ticked: names(ticked) });
    return;
  }
  if (sort) {
    if (event.type === 'click') trigger('sorted', { name: sort.dataset.sort });
    return;
  }
  const row = event.target.closest('tr[data-name]');
  if (!row) return;
  if (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ') return;
  event.preventDefault();
  trigger('pick', { name: row.dataset.name });
  if (window.innerWidth < 1000) setTimeout(() => document.querySelector('#runs-head')?.scrollIntoView({ behavior: 'smooth' }), 300);
}
element.addEventListener('click', act);
element.addEventListener('keydown', act);
