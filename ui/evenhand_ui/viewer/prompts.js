// Boxes and points to the model, and its answer: a suggestion, drawn apart, that changes nothing
// until the reader takes it. Taking it is one stroke, so undo and redo go across it.

import { Refused } from "./api.js";
import { SUGGESTED } from "./volume.js";

const POLL_MS = 1500;

export class Prompts {
  constructor(app) {
    this.app = app;
    this.state = "preparing";
    this.corners = null;
    this.points = [];
    this.slice = null;
    this.number = 0;
    this._tell("absent", "Asking whether there is a model ...");
  }

  // What is under way: marks on the picture, or an answer that is neither taken nor thrown away.
  get open() { return this.slice !== null; }

  async start() {
    if (this.app.data.readonly) {
      this._tell("absent", "This case is open for looking only.");
      return;
    }
    try {
      const { state, why } = await this.app.api.get("prompt");
      this._tell(state, why);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.app.renew();
      else if (error instanceof Refused && error.status < 500) this._tell("absent", error.message);
      else this._tell("preparing", "The server does not answer.");
    }
    if (this.state === "preparing" && !this.app.left) {
      this.timer = setTimeout(() => this.start(), POLL_MS);
    }
  }

  leave() { clearTimeout(this.timer); }

  // `from` and `to`: columns and rows of the plane.
  box(view, from, to) {
    this._turnTo(view);
    this.corners = [from, to].map((place) => this._edges(view, place));
    this.points = [];
    this._ask();
  }

  point(view, place, inside) {
    if (this._turnTo(view)) this.corners = null;
    if (!inside && !this.corners && !this.points.length) {
      this.app.panel.say("Begin with a point inside; Shift marks what is outside.", "bad");
      if (!this.answered) this.slice = null;
      return;
    }
    this.points.push([...this._edges(view, place), inside]);
    this._ask();
  }

  // The last point back; without one, all of it.
  back() {
    this.points.pop();
    if (this.points.some((p) => p[3]) || (this.corners && this.points.length)) this._ask();
    else this.discard();
  }

  take(replace) {
    if (!this.answered) return;
    const { volume, editor } = this.app, index = this.slice;
    const slice = replace ? [this.app.mainPlane, index] : null;
    const changed = editor.adopt(slice);
    volume.suggest(null);
    this._forget();
    this.app.panel.say(changed ? "Taken; Undo takes it back" : "Your mask has all of it already",
      changed ? "good" : "");
    this.app.invalidate();
  }

  discard() {
    this.app.volume.suggest(null);
    this._forget();
    this.app.panel.say("Suggestion thrown away", "");
    this.app.invalidate();
  }

  // For the picture: the box and the points, as columns and rows.
  marks(view) {
    if (!this.open || view.plane !== this.app.mainPlane || view.slice !== this.slice) return null;
    const place = ([...xyz]) => [view.columns - xyz[view.plane.across], view.rows - xyz[view.plane.down]];
    return {
      rect: this.corners?.map(place),
      dots: this.points.map((p) => ({ at: place(p), inside: p[3] })),
    };
  }

  _edges(view, [column, row]) {
    const { across, down, through } = view.plane, xyz = [0, 0, 0];
    xyz[across] = view.columns - column;
    xyz[down] = view.rows - row;
    xyz[through] = view.slice + 0.5;
    return xyz;
  }

  // Another slice begins anew; says whether it did.
  _turnTo(view) {
    if (this.slice === view.slice) return false;
    this.app.volume.suggest(null);
    this._forget();
    this.slice = view.slice;
    return true;
  }

  _forget() {
    this.number++;
    this.slice = null;
    this.corners = null;
    this.points = [];
    this.answered = false;
    this.app.panel.suggestion.hidden = true;
  }

  async _ask() {
    const number = ++this.number, { app } = this;
    app.panel.say("Asking the model ...", "busy");
    app.invalidate();
    try {
      const { box, bytes } = await app.api.suggestion({
        slice: this.slice, box: this.corners?.flat() ?? null, points: this.points,
      });
      if (number !== this.number || app.left) return;  // another prompt came meanwhile
      app.volume.suggest(bytes, box);
      this.answered = bytes.length > 0;
      app.panel.suggestion.hidden = !this.answered;
      // At the side: the line above belongs to what is saved meanwhile.
      app.panel.suggested.textContent = `The model suggests ${app.sizeText(app.volume.suggested)}`;
      app.panel.say(this.answered ? "" : "The model finds nothing there", this.answered ? "" : "bad");
      app.invalidate();
    } catch (error) {
      if (number !== this.number) return;
      if (error instanceof Refused && error.status === 401) app.renew();
      app.panel.say(error instanceof Refused ? error.message : "The server does not answer.", "bad");
      if (error instanceof Refused && error.status === 503) this.start();
    }
  }

  _tell(state, why) {
    this.state = state;
    const { panel, tool } = this.app, ready = state === "ready";
    for (const id of ["box", "points"]) {
      const button = panel.tools[id];
      button.disabled = !ready;
      button.title = ready ? button.dataset.what : why;
    }
    panel.model.textContent = ready ? "" : why;
    panel.model.hidden = ready;
    if (!ready && (tool === "box" || tool === "points")) this.app.setTool("look");
  }
}
