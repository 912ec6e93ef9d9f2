// Said at once; the server answers when it has looked at everything.
(name) => {
  const text = document.createElement('b');
  text.textContent = name || '';
  return `<p class="now" role="status"><span>Starting ${text.outerHTML} …</span></p>`;
}
