// The keyboard. Streamlit has r, c and Escape for itself; none of them is used here.

import { closePolygon, dropCorner } from "./pointer.js";
import { TOOLS } from "./panel.js";

const TYPING = new Set(["INPUT", "TEXTAREA", "SELECT"]);
const OF_TOOL = Object.fromEntries(TOOLS.map(({ id, key }) => [key.toLowerCase(), id]));

export function listenForKeys(app) {
  const listener = (event) => {
    const target = event.composedPath()[0];
    const typing = TYPING.has(target?.tagName) && target.type !== "range" && target.type !== "checkbox";
    const work = typing ? null : find(app, event);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) decide(app);
    else if (!work) return;
    else work();
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  addEventListener("keydown", listener, { capture: true });
  return () => removeEventListener("keydown", listener, { capture: true });
}

function decide(app) {
  app.decide(app.volume.differing > 0 ? "correct" : "accept");
}

function find(app, event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.altKey) return null;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && !event.shiftKey) return () => app.editor.undo();
    if (key === "y" || (key === "z" && event.shiftKey)) return () => app.editor.redo();
    return null;
  }
  if (key === "Enter" && app.pen?.points) return () => closePolygon(app, !event.shiftKey);
  if (key === "Backspace" && app.pen?.points) return () => dropCorner(app);
  if (key === "Enter" && app.prompts.answered) return () => app.prompts.take(event.shiftKey);
  if (key === "Backspace" && app.prompts.open) return () => app.prompts.back();
  if (event.shiftKey && key !== "?") return null;
  if (key in OF_TOOL) return () => app.setTool(OF_TOOL[key]);
  return {
    ArrowUp: () => app.step(app.active, -1),
    ArrowDown: () => app.step(app.active, 1),
    PageUp: () => app.step(app.active, -1),
    PageDown: () => app.step(app.active, 1),
    "[": () => app.resizeBrush(-1),
    "]": () => app.resizeBrush(1),
    n: () => app.nextUnseen(),
    h: () => app.toggleHidden(),
    o: () => app.toggleStyle(),
    i: () => app.interpolate(),
    x: () => app.swap(),
    0: () => app.fit(),
  }[key];
}
