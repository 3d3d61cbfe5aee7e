// A cursor for the keyboard: what the mouse does, arrows and the space bar do as well.
//
// Space puts the tool down and lifts it, arrows move it by a pixel of the slice, with Shift by ten.

import { begin, hover } from "./pointer.js";

const FAR = 10;
const MARGIN = 24;

export class Cursor {
  constructor(app) {
    this.app = app;
    this.on = false;
    this.drag = null;
  }

  toggle() {
    this.lift();
    this.on = !this.on;
    const { app } = this;
    if (this.on) {
      this.take(app.active);
      app.active.canvas.focus({ preventScroll: true });
    } else if (app.pen?.at) app.pen = null;
    app.panel.say(this.on
      ? "Keyboard cursor: arrows move it, Space puts the tool down and lifts it, K ends" : "", "");
    app.invalidate();
  }

  // Begin on a plane, where the crosshair is.
  take(view) {
    this.lift();
    this.view = view;
    const { across, down } = view.plane, { position } = this.app;
    this.at = [view.columns - position[across] - 0.5, view.rows - position[down] - 0.5];
    this._show();
  }

  move(columns, rows, far) {
    const step = far ? FAR : 1, { view } = this;
    this.at = [[columns, view.columns], [rows, view.rows]].map(([by, size], n) =>
      Math.max(0.5, Math.min(size - 0.5, this.at[n] + by * step)));
    this._follow();
    this.drag?.move(this._event());
    this._show();
  }

  // Space: the tool goes down, or up again.
  press(shift) {
    if (this.drag) this.lift();
    else this.drag = begin(this.app, this.view, this._event(shift));
    this._show();
  }

  lift() {
    const { drag } = this;
    this.drag = null;
    drag?.end?.();
  }

  // For the picture: where it is.
  mark(view) {
    return this.on && view === this.view ? { at: this.at, down: Boolean(this.drag) } : null;
  }

  _show() {
    hover(this.app, this.view, this._event());
    this.app.invalidate();
  }

  _event(shiftKey = false) {
    const [clientX, clientY] = this.view.onScreen(this.at);
    return { clientX, clientY, button: 0, shiftKey, preventDefault: () => undefined };
  }

  // A picture that is zoomed in moves along.
  _follow() {
    const { view } = this, box = view.canvas.getBoundingClientRect();
    const [x, y] = view.onScreen(this.at);
    const beyond = (place, low, high) => Math.max(0, low - place) - Math.max(0, place - high);
    view.pan[0] += beyond(x, box.left + MARGIN, box.right - MARGIN);
    view.pan[1] += beyond(y, box.top + MARGIN, box.bottom - MARGIN);
  }
}
