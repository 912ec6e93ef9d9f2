// A table whose rows are picked by click, Enter or Space, ticked by their boxes, and sorted by the names of its columns:
// tells Python the row's or the column's name.
function act(event) {
  const box = event.target.closest('input[data-tick]');
  const sort = event.target.closest('button[data-sort]');
  if (box) {
    if (event.type === 'click') trigger('ticked', { name: box.dataset.tick });
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
