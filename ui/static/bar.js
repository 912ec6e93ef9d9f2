// The lines above Start: a button ends the run of its line, a name brings the run into view.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  const { act, name } = button.dataset;
  if (act === 'end') button.disabled = true;
  if (act === 'show') document.querySelector(element.id.startsWith('text-') ? '#text-run-head' : '#run-head')?.scrollIntoView({ block: 'center' });
  trigger('pressed', { act, name });
});
