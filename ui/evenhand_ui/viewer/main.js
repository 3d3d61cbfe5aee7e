// What Streamlit calls: with the place to draw in, the case's data, and the way to talk back.
//
// It calls again whenever the page runs, and may clean up in between; a case that is already on the
// screen then only gets its new ticket.

import { App } from "./app.js";

const open = new WeakMap();

// Streamlit keeps the case before on the screen for a moment; it must not hear keys any more.
let current = null;

export default function mount({ data, parentElement, setTriggerValue }) {
  const place = parentElement.querySelector("[data-evenhand]") ?? parentElement;
  const trigger = (name, value) => setTriggerValue(name, value);
  remember(data.readerCookie);
  let entry = open.get(place);
  if (entry && entry.app.data.draftKey === data.draftKey
      && entry.app.data.readonly === data.readonly) {
    clearTimeout(entry.ending);
    entry.app.trigger = trigger;
    entry.app.update(data);
  } else {
    entry?.app.destroy();
    current?.destroy();
    const app = new App(data, trigger);
    current = app;
    app.setTool("look");
    place.replaceChildren(app.root);
    entry = { app };
    open.set(place, entry);
  }
  return () => {
    entry.ending = setTimeout(() => {
      entry.app.destroy();
      if (open.get(place) === entry) open.delete(place);
    }, 0);
  };
}

// Who reads, signed by the server, so that a reload need not ask.
function remember(cookie) {
  if (cookie) document.cookie = `evenhand_reader=${cookie}; path=/; SameSite=Strict; max-age=43200`;
}
