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
