// Boxes and points to the model, and its answer: a suggestion, drawn apart, that changes nothing
// until the reader takes it. Taking it is one stroke, so undo and redo go across it. An answer, or
// one's own mask on a slice, can be carried on to the slices beside it; that too is a suggestion.

import { Refused } from "./api.js";
import { pack } from "./backup.js";
import { MINE, SUGGESTED } from "./volume.js";

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
      const { state, why } = await this.app.api.get(`prompt?slice=${this._here}`);
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

  leave() {
    clearTimeout(this.timer);
    this.stop();
  }

  get _here() { return this.app.position[this.app.data.sliceAxis]; }

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

  // What is on the way is stopped; else the last point back; without one, all of it.
  back() {
    if (this.walk) { this.stop(); return; }
    this.points.pop();
    if (this.points.some((p) => p[3]) || (this.corners && this.points.length)) this._ask();
    else this.discard();
  }

  take(replace) {
    if (!this.answered) return;
    const { volume, editor, mainPlane } = this.app;
    const slices = replace ? volume.slicesOf(mainPlane.through, SUGGESTED) : [];
    const changed = editor.adopt(mainPlane, slices);
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

  // From the answer, or else from one's own mask on this slice, to the slices beside it.
  async carry() {
    const { app } = this, { volume, panel, mainPlane } = app;
    if (this.walk || this.state !== "ready") return;
    const suggested = [this._here, this.slice].find((k) =>
      this.answered && volume.part(mainPlane, k, SUGGESTED));
    if (this.answered && suggested === undefined) {
      panel.say("Take or drop the suggestion first, or go to a slice that has it.", "bad");
      return;
    }
    const [slice, bit] = this.answered ? [suggested, SUGGESTED] : [this._here, MINE];
    const part = volume.part(mainPlane, slice, bit);
    if (!part) {
      panel.say("Nothing is drawn on this slice to be carried on.", "bad");
      return;
    }
    if (bit === MINE) {
      volume.suggest(null);
      this._forget();
      this.slice = slice;
    }
    const number = ++this.number, walk = new AbortController();
    this.walk = walk;
    this._walking(0);
    const found = new Set();
    let why = "";
    try {
      const packed = await pack(part.bytes);
      for await (const { box, bytes, end } of app.api.carry(packed, part.box, walk.signal)) {
        if (number !== this.number || app.left) return;
        if (end !== undefined) { why = end; break; }
        volume.suggestMore(bytes, box);
        this.answered = true;
        this._walking(found.add(box[2 * mainPlane.through]).size);
        app.invalidate();
      }
    } catch (error) {
      if (walk.signal.aborted) why = "Stopped";
      else if (error instanceof Refused) {
        if (error.status === 401) app.renew();
        why = error.message;
      } else why = "The server does not answer.";
    } finally {
      if (this.walk === walk) {
        this.walk = null;
        this._walking(found.size);
      }
    }
    if (number !== this.number) return;
    if (!this.answered) this._forget();
    panel.say(why || (found.size ? "" : "The model does not find it on the slices beside this one"),
      found.size || why === "Stopped" ? "" : "bad");
    app.invalidate();
  }

  stop() { this.walk?.abort(); }

  // `count`: slices that it was carried on to.
  _walking(count) {
    const { panel, volume, mainPlane } = this.app, on = Boolean(this.walk);
    panel.walk.hidden = !on;
    panel.walked.textContent = `Carried on to ${count} slice${count === 1 ? "" : "s"} ...`;
    this._shown();
    if (!this.answered || !count) return;
    const found = volume.slicesOf(mainPlane.through, SUGGESTED);
    panel.suggested.textContent += ` on slices ${found[0] + 1} to ${found.at(-1) + 1}`;
  }

  // What is suggested, at the side: the line above belongs to what is saved meanwhile.
  _shown() {
    const { panel, volume } = this.app;
    panel.suggestion.hidden = !this.answered;
    panel.suggested.textContent = `The model suggests ${this.app.sizeText(volume.suggested)}`;
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
    this.stop();
    this.slice = null;
    this.corners = null;
    this.points = [];
    this.answered = false;
    this.app.panel.suggestion.hidden = true;
  }

  async _ask() {
    this.stop();
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
      this._shown();
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
    panel.carry.disabled = !ready;
    panel.carry.title = ready ? panel.carry.dataset.what : why;
    panel.model.textContent = ready ? "" : why;
    panel.model.hidden = ready;
    if (!ready && (tool === "box" || tool === "points")) this.app.setTool("look");
  }
}
