// A table whose rows are picked by click, Enter or Space, ticked by their boxes, and sorted by the names of its columns:
// tells Python the row's or the column's name.
function act(event) {
  const box = event.target.closest('input[data-tick]');
  const sort = event.target.closest('button[data-sort]');
  if (box) {
    // All boxes, not the one: a second click may come before the first is answered.
    const boxes = [...element.querySelectorAll('input[data-tick]')];
    const names = (some) => JSON.stringify(some.map((one) => one.dataset.tick));
    if (event.type === 'click') trigger('ticked', { shown: names(boxes), ticked: names(boxes.filter((one) => one.checked)) });
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
