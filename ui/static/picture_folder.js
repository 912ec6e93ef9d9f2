// A folder with its sub-folders, chosen or dropped: its files are uploaded a few at a time, and Python hears their names.
const chooser = part('input');
Object.assign(chooser, { type: 'file', multiple: true, webkitdirectory: true, hidden: true, tabIndex: -1 });
const folderButton = action('Add a folder …', () => chooser.click());
const folderNote = part('span', 'folder-note');
folderNote.setAttribute('role', 'status');
bar.append(folderButton, chooser, folderNote);

async function bring(files) {
  const came = [];
  const failed = [];
  let next = 0;
  folderButton.disabled = true;
  const carry = async () => {
    while (next < files.length) {
      const [name, file] = files[next++];
      folderNote.textContent = `Uploading ${next} of ${files.length} files`;
      try {
        came.push([name, (await upload(file)).path]);
      } catch {
        failed.push(name);
      }
    }
  };
  await Promise.all([carry(), carry(), carry(), carry()]);
  folderButton.disabled = false;
  folderNote.textContent = files.length ? 'Reading …' : 'There is no file in it.';
  if (files.length) trigger('came', { files: JSON.stringify(came), failed: JSON.stringify(failed) });
}

chooser.addEventListener('change', () => {
  bring([...chooser.files].map((file) => [file.webkitRelativePath || file.name, file]));
  chooser.value = '';
});

function listed(reader) {
  return new Promise((done, failed) => reader.readEntries(done, failed));
}

// Every file below an entry of a drop, with its path; readEntries gives a hundred at a time.
async function below(entry, found) {
  if (entry.isFile) {
    found.push([entry.fullPath.slice(1), await new Promise((done, failed) => entry.file(done, failed))]);
    return found;
  }
  const reader = entry.createReader();
  for (let some = await listed(reader); some.length; some = await listed(reader)) {
    for (const inside of some) await below(inside, found);
  }
  return found;
}

// In front of Gradio's own field, which takes files only.
document.addEventListener('drop', async (event) => {
  if (!event.target.closest?.('#drop')) return;
  const entries = [...(event.dataTransfer?.items || [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  event.target.dispatchEvent(new DragEvent('dragleave', { bubbles: true })); // the field is not dragged over any more
  const found = [];
  for (const entry of entries) await below(entry, found);
  bring(found);
}, true);
watch('value', () => {
  folderNote.textContent = '';
});
