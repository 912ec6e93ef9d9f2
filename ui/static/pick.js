// Buttons that stand for values: tells Python the value of the one that was pressed.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-pick]');
  if (button) trigger('picked', JSON.parse(button.dataset.pick));
});
