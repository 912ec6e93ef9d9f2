// A sample opens large over the page; Escape or a click closes it. Without this script the link opens the file.
() => {
  const dialog = document.createElement('dialog');
  dialog.className = 'large-picture';
  const image = document.createElement('img');
  const caption = document.createElement('p');
  dialog.append(image, caption);
  dialog.addEventListener('click', () => dialog.close());
  document.body.append(dialog);
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a.sample');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    image.src = link.href;
    image.alt = caption.textContent = link.dataset.caption || '';
    dialog.showModal();
  });
  // An error's name leads to its field; what is in a closed part of the page is opened on the way.
  document.addEventListener('click', (event) => {
    const link = event.target.closest('.problems a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    const field = document.getElementById(link.hash.slice(1));
    if (!field) return;
    for (let part = field.parentElement; part; part = part.parentElement) {
      const opener = part.querySelector(':scope > button.label-wrap:not(.open)');
      if (opener && field.offsetParent === null) opener.click();
    }
    setTimeout(() => {
      field.scrollIntoView({ block: 'center' });
      field.querySelector('input, textarea, select')?.focus({ preventScroll: true });
    }, 60);
  });
  // Texts to copy.
  document.addEventListener('click', async (event) => {
    const button = event.target.closest('button[data-copy]');
    if (!button) return;
    const text = button.parentElement.querySelector('pre').textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector('pre')); // no clipboard without https: it is marked
      button.textContent = 'Marked: press Ctrl-C';
    }
    setTimeout(() => (button.textContent = 'Copy'), 2500);
  });
  // A double click on Start is one start.
  let started = -Infinity;
  document.addEventListener(
    'click',
    (event) => {
      if (!event.target.closest('button.start')) return;
      if (event.timeStamp - started < 900) event.stopImmediatePropagation();
      else started = event.timeStamp;
    },
    true,
  );
}
