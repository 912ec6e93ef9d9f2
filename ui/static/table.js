// A table whose rows are picked by click, Enter or Space: tells Python the row's name.
function pick(event) {
  const row = event.target.closest('tr[data-name]');
  if (!row) return;
  if (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ') return;
  event.preventDefault();
  trigger('pick', { name: row.dataset.name });
}
element.addEventListener('click', pick);
element.addEventListener('keydown', pick);
