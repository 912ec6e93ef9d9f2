// The lines above Start: a button ends the run of its line or changes the queue, a name brings the run into view. What
// they say is also the page's title, and a run that ends is told by a notification, if the browser was allowed to.
const own = document.title;
let active = '';
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  const { act, name } = button.dataset;
  if (act !== 'show') button.disabled = true;
  if (act === 'show') document.querySelector(element.id.startsWith('text-') ? '#text-run-head' : '#run-head')?.scrollIntoView({ block: 'center' });
  trigger('pressed', { act, name });
});
function facts() {
  try {
    return JSON.parse(element.querySelector('.page-facts')?.dataset.facts || '');
  } catch {
    return null; // what stands there before the server has answered
  }
}
function look() {
  const now = facts();
  if (!now) return;
  document.title = now.title ? `${now.title} · ${own}` : own;
  const seen = (window.lowrankEnded ??= new Set(active ? [] : now.ended.map(([name]) => name))); // old news of a page just opened
  for (const [name, title, state] of now.ended) {
    if (seen.has(name)) continue;
    seen.add(name);
    if (window.Notification?.permission === 'granted') new Notification(`${title}: ${state}`, { tag: name });
  }
  for (const name of [...seen]) if (!now.ended.some(([other]) => other === name)) seen.delete(name); // it goes on: tell its next end
  active = now.title;
}
watch('value', () => setTimeout(look)); // when the new lines are in the page
document.addEventListener('click', (event) => {
  if (event.target.closest('button.start') && window.Notification?.permission === 'default') Notification.requestPermission();
});
setTimeout(look);
