// Holds a text, the address of an uploaded file, and tells Python when it is another one.
watch('value', () => trigger('input'));
