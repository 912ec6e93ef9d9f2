// Not seen: passes its value on to the scripts of other components, as an event named after its id.
watch('value', () => document.dispatchEvent(new CustomEvent(NAME, { detail: props.value })));
