// Which draft is this page's. The key of a tab survives its reloads (sessionStorage); a new tab gets a new one and starts
// from the last tab's (localStorage). A duplicated tab has a copy of our key: whoever holds its lock keeps it.
const KEY = 'lowrank-diffusion-draft';
function stored(storage) {
  try {
    return window[storage].getItem(KEY) || '';
  } catch {
    return ''; // storage is forbidden: the draft then ends with the page
  }
}
function store(...storages) {
  try {
    for (const storage of storages) window[storage].setItem(KEY, props.value);
  } catch {
    // as above
  }
}
function held(key) {
  if (!navigator.locks) return Promise.resolve(true); // only pages of https or this machine have them
  return new Promise((answer) => {
    navigator.locks
      .request(`${KEY}-${key}`, { ifAvailable: true }, (lock) => {
        answer(Boolean(lock));
        return lock ? new Promise(() => {}) : null;
      })
      .catch(() => answer(true));
  });
}
const bytes = crypto.getRandomValues(new Uint8Array(16));
const fresh = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const own = stored('sessionStorage');
watch('value', () => {
  if (!props.value) return;
  store('sessionStorage', 'localStorage');
  held(props.value);
});
window.addEventListener('focus', () => props.value && store('localStorage'));
(own ? held(own) : Promise.resolve(false)).then((mine) => {
  trigger('opened', { own: mine ? own : '', last: own || stored('localStorage'), fresh });
});
