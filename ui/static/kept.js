// Holds a text, the address of an uploaded file, through a reload of the page; Python drops a file that is gone.
const KEY = 'lowrank-diffusion-rows';
watch('value', () => {
  try {
    localStorage.setItem(KEY, props.value || '');
  } catch {
    // storage is full or forbidden: the file then ends with the page
  }
});
const kept = localStorage.getItem(KEY);
if (kept && !props.value) trigger('restore', { kept });
