// The keyboard. Streamlit has r, c and Escape for itself; none of them is used here.

import { closePolygon, dropCorner } from "./pointer.js";
import { TOOLS } from "./panel.js";

const TYPING = new Set(["INPUT", "TEXTAREA", "SELECT"]);
const OF_TOOL = Object.fromEntries(TOOLS.map(({ id, key }) => [key.toLowerCase(), id]));

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

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
  app.decision.decide(app.volume.differing > 0 ? "correct" : "accept");
}

function find(app, event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.altKey) return null;
  // A button that has the focus is pressed by these two, whatever else they do.
  if ((key === " " || key === "Enter") && event.composedPath()[0]?.tagName === "BUTTON") return null;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && !event.shiftKey) return () => app.editor.undo();
    if (key === "y" || (key === "z" && event.shiftKey)) return () => app.editor.redo();
    return null;
  }
  if (key === "Enter" && app.pen?.points) return () => closePolygon(app, !event.shiftKey);
  if (key === "Backspace" && app.pen?.points) return () => dropCorner(app);
  if (key === "Enter" && app.prompts.answered) return () => app.prompts.take(event.shiftKey);
  if (key === "Backspace" && app.prompts.open) return () => app.prompts.back();
  const towards = ARROWS[key];
  if (towards && app.cursor.on) return () => app.cursor.move(...towards, event.shiftKey);
  if (key === " " && app.cursor.on) return () => app.cursor.press(event.shiftKey);
  if (towards && event.shiftKey) return () => app.looking.pan(...towards);
  if (key === "+" || key === "=") return () => app.looking.zoom(1.25);
  if (event.shiftKey) return null;
  if (key in OF_TOOL) return () => app.setTool(OF_TOOL[key]);
  return {
    ArrowUp: () => app.step(app.active, -1),
    ArrowDown: () => app.step(app.active, 1),
    PageUp: () => app.step(app.active, -1),
    PageDown: () => app.step(app.active, 1),
    "[": () => app.resizeBrush(-1),
    "]": () => app.resizeBrush(1),
    "-": () => app.looking.zoom(0.8),
    k: () => app.cursor.toggle(),
    y: () => app.beside.toggle(),
    u: () => app.looking.toggleHeat(),
    g: () => app.prompts.carry(),
    n: () => app.nextUnseen(),
    h: () => app.looking.toggleHidden(),
    o: () => app.looking.toggleStyle(),
    i: () => app.interpolate(),
    x: () => app.swap(),
    0: () => app.looking.fit(),
  }[key];
}
