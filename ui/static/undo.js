// What was just done can be undone for ten seconds, or until something else is changed; longer while it is looked at.
let timer = 0;
function hide() {
  clearTimeout(timer);
  const bar = element.querySelector('.undo');
  if (bar && bar.contains(document.activeElement)) wait();
  else if (bar) bar.remove();
}
function wait() {
  clearTimeout(timer);
  timer = setTimeout(hide, 10_000);
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-name]');
  if (!button) return;
  const { name } = button.dataset;
  element.querySelector('.undo').remove();
  trigger('pressed', { name });
});
element.addEventListener('pointerover', () => clearTimeout(timer));
element.addEventListener('pointerout', wait);
document.addEventListener('input', (event) => event.isTrusted && element.querySelector('.undo')?.remove());
watch('value', wait);
