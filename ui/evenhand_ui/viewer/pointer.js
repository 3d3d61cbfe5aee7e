// The mouse, pen or finger on a plane.
//
// Left: the chosen tool. Right: window and level. Middle, or left with Shift while looking: move.
// Wheel: slices; with Ctrl: zoom.

const WHEEL_STEP = 30;

export function attachPointer(app, view) {
  const { canvas } = view;
  let drag = null, turned = 0;

  canvas.addEventListener("focus", () => {
    if (app.active === view) return;
    app.active = view;
    if (app.cursor.on) app.cursor.take(view);
  });

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    app.active = view;
    if (event.ctrlKey || event.metaKey) {
      view.zoomAt(event, Math.exp(-event.deltaY / 300));
      app.invalidate();
      return;
    }
    turned += event.deltaMode === 0 ? event.deltaY : event.deltaY * WHEEL_STEP;
    const steps = Math.trunc(turned / WHEEL_STEP);
    if (!steps) return;
    turned -= steps * WHEEL_STEP;
    // A notch is one slice, however far it is said to go.
    app.step(view, Math.abs(steps) > 1 && Math.abs(event.deltaY) >= 100 ? Math.sign(steps) : steps);
    if (Math.abs(event.deltaY) >= 100) turned = 0;
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    if (!app.grey || drag) return;
    app.cursor.lift();
    canvas.focus({ preventScroll: true });
    app.active = view;
    drag = begin(app, view, event);
    if (drag) canvas.setPointerCapture(event.pointerId);
    app.invalidate();
  });

  canvas.addEventListener("pointermove", (event) => {
    hover(app, view, event);
    if (!drag) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) drag.move(one);
    app.invalidate();
  });

  const finish = () => {
    const ended = drag;
    drag = null;
    ended?.end?.();
  };
  canvas.addEventListener("pointerup", finish);
  canvas.addEventListener("pointercancel", finish);
  canvas.addEventListener("pointerleave", () => {
    if (app.pen?.at) { app.pen = null; app.invalidate(); }
  });
  canvas.addEventListener("dblclick", () => closePolygon(app, true));
}

const PAINTS = { brush: true, threshold: true, eraser: false };

export function begin(app, view, event) {
  if (event.button === 2) return windowDrag(app, event);
  if (event.button === 1 || (event.button === 0 && event.shiftKey && !(app.tool in PAINTS)
      && app.tool !== "polygon" && app.tool !== "points")) {
    event.preventDefault();
    return panDrag(view, event);
  }
  if (event.button !== 0) return null;
  if (app.tool === "window") return windowDrag(app, event);
  if (app.tool === "look") return crossDrag(app, view, event);
  if (app.tool === "ruler") return rulerDrag(app, view, event);
  if (app.data.readonly) return null;
  if (app.tool in PAINTS) return paintDrag(app, view, event);
  if (app.tool === "box" || app.tool === "points") return ask(app, view, event);
  if (app.tool === "polygon") addCorner(app, view, event);
  if (app.tool === "fill") fill(app, view, event);
  return null;
}

export function hover(app, view, event) {
  if (!(app.tool in PAINTS)) return;
  app.pen = { view, at: view.locate(event), radius: app.brushMm / 2 };
  app.invalidate();
}

function windowDrag(app, event) {
  const { level, width } = app.window, { clientX, clientY } = event;
  return {
    move: (e) => app.setWindow(
      level + ((e.clientY - clientY) / 300) * width,
      width * Math.exp((e.clientX - clientX) / 200),
    ),
  };
}

function panDrag(view, event) {
  const [x, y] = view.pan, { clientX, clientY } = event;
  return { move: (e) => { view.pan = [x + e.clientX - clientX, y + e.clientY - clientY]; } };
}

function crossDrag(app, view, event) {
  const move = (e) => {
    const [column, row] = view.locate(e), next = [...app.position];
    next[view.plane.across] = view.columns - 1 - Math.floor(column);
    next[view.plane.down] = view.rows - 1 - Math.floor(row);
    app.moveTo(next);
  };
  move(event);
  return { move };
}

// The line stays on its slice until the next one is drawn or another tool is taken.
function rulerDrag(app, view, event) {
  const start = view.locate(event), [mx, my] = view.pixelMm;
  return {
    move: (e) => {
      const end = view.locate(e);
      const length = Math.hypot((end[0] - start[0]) * mx, (end[1] - start[1]) * my);
      const text = `${length.toFixed(1)} ${app.data.lengthUnit}`;
      app.pen = { view, slice: view.slice, line: [start, end], text };
      app.panel.say(text);
    },
  };
}

function paintDrag(app, view, event) {
  const { editor, volume } = app;
  let at = view.locate(event), allowed;
  if (app.tool === "threshold") {
    const start = view.voxelAt(at);
    if (start < 0) return null;
    const reach = (Number(app.panel.tolerance.value) / 100) * app.window.width;
    const middle = volume.value(start);
    allowed = (index) => Math.abs(volume.value(index) - middle) <= reach;
  }
  const slice = view.slice, radius = app.brushMm / 2;
  editor.begin(PAINTS[app.tool]);
  editor.brush(view.plane, slice, at, at, radius, allowed);
  return {
    move: (e) => {
      const next = view.locate(e);
      editor.brush(view.plane, slice, at, next, radius, allowed);
      at = next;
    },
    end: () => editor.end(),
  };
}

function ask(app, view, event) {
  if (view.plane !== app.mainPlane) {
    app.panel.say(`The model reads ${app.mainPlane.name.toLowerCase()} slices; ask there.`, "bad");
    return null;
  }
  const from = view.locate(event);
  if (app.tool === "points") {
    if (view.voxelAt(from) >= 0) app.prompts.point(view, from, !event.shiftKey);
    return null;
  }
  let to = from;
  return {
    move: (e) => {
      to = view.locate(e);
      app.pen = { view, slice: view.slice, rect: [from, to] };
    },
    end: () => {
      app.pen = null;
      if (to[0] !== from[0] && to[1] !== from[1]) app.prompts.box(view, from, to);
      app.invalidate();
    },
  };
}

function addCorner(app, view, event) {
  const point = view.locate(event);
  const same = app.pen?.points && app.pen.view === view && app.pen.slice === view.slice;
  app.pen = { view, slice: view.slice, points: same ? [...app.pen.points, point] : [point] };
}

export function closePolygon(app, on) {
  const pen = app.pen;
  if (!pen?.points) return false;
  app.pen = null;
  if (pen.points.length > 2) app.editor.polygon(pen.view.plane, pen.slice, pen.points, on);
  app.invalidate();
  return true;
}

export function dropCorner(app) {
  if (!app.pen?.points) return false;
  app.pen.points.pop();
  if (!app.pen.points.length) app.pen = null;
  app.invalidate();
  return true;
}

function fill(app, view, event) {
  const [column, row] = view.locate(event).map(Math.floor);
  if (view.voxelAt([column, row]) < 0) return;
  if (!app.editor.fill(view.plane, view.slice, column, row)) {
    app.panel.say("This place is not enclosed by your mask.", "bad");
  }
}
