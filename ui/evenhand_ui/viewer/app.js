// One open case: what is loaded, what is shown, and what the buttons do.

import { Api, Refused } from "./api.js";
import { Beside } from "./beside.js";
import { Cursor } from "./cursor.js";
import { Decision } from "./decision.js";
import { Editor } from "./edit.js";
import { listenForKeys } from "./keys.js";
import { Listing } from "./listing.js";
import { Looking } from "./looking.js";
import { Panel, presetsOf } from "./panel.js";
import { attachPointer } from "./pointer.js";
import { Prompts } from "./prompts.js";
import { Saving } from "./saving.js";
import { View } from "./view.js";
import { MINE, PLANES, PROPOSED, SUGGESTED, Volume } from "./volume.js";
import { Watching } from "./watching.js";

export class App {
  constructor(data, trigger) {
    this.data = data;
    this.trigger = trigger;
    this.api = new Api(data);
    this.volume = new Volume(data);
    this.editor = new Editor(this.volume, () => this.edited());
    this.position = data.shape.map((n) => Math.floor(n / 2));
    this.look = { style: "outline", opacity: 90, hidden: false, proposal: true };
    this.tool = "look";
    this.brushMm = 4 * Math.min(...data.spacing);
    this.greyVersion = 0;
    this.panel = new Panel(data, this._actions());
    this.root = this.panel.root;
    this.decision = new Decision(this);
    this.beside = new Beside(this);
    this._makeViews();
    this.looking = new Looking(this);
    this.prompts = new Prompts(this);
    this.listing = new Listing(this);
    this.cursor = new Cursor(this);
    this.saving = new Saving({
      api: this.api, volume: this.volume, editor: this.editor, key: data.draftKey,
      tell: (text, kind) => this.panel.say(text, kind),
      renew: () => this.renew(),
      conflict: () => this.askWhich(),
      lost: () => this.trigger("lost", Date.now()),
      changed: () => this.askToLookAgain(),
    });
    this.started = performance.now();
    this.ready = this._load().catch((error) => this._broken(error));
  }

  // The mounted page gives a new ticket from time to time, and tells whether it asks for a signature.
  update(data) {
    this.api.ticket = data.ticket;
    this.decision.update(data.signing);
    this.saving.newTicket();
  }

  destroy() {
    if (this.left) return;
    this.left = true;
    this.root.dataset.left = "";
    this.saving.leave();
    this.decision.leave();
    this.watching?.leave();
    this.prompts.leave();
    this.listing.leave();
    this.unlisten?.();
    this.resizer?.disconnect();
    removeEventListener("beforeunload", this.guard);
  }

  renew() {
    if (Date.now() - (this.asked ?? 0) < 5000) return;
    this.asked = Date.now();
    this.trigger("renew", this.asked);
  }

  // -- loading ------------------------------------------------------------------------------

  async _load() {
    this.panel.say("Loading ...", "busy");
    const [image, proposal] = await Promise.all([this.api.image(0), this.api.mask("proposal")]);
    this.volume.setMask(proposal.bytes, proposal.box, PROPOSED);
    this.volume.copyProposal(proposal.box);
    this.setImage(image);
    this._goToTumour();
    if (!this.data.readonly) await this.saving.load();
    this.watching = new Watching({
      api: this.api, must: this.data.must, missing: this.data.missing,
      readonly: this.data.readonly, renew: () => this.renew(), changed: () => this.refresh(),
      stale: () => this.askToLookAgain(),
    });
    this._listen();
    this.refresh();
    this.paintNow();
    this.root.dataset.ready = String(Math.round(performance.now() - this.started));
    this.prompts.start();
    this.listing.touched();
    if (!this.panel.status.dataset.kind || this.panel.status.dataset.kind === "busy") {
      this.panel.say(this.data.readonly ? "For looking only" : "", "");
    }
  }

  _broken(error) {
    const plain = error instanceof Refused ? error.message
      : "The case could not be loaded; reload the page.";
    this.panel.alert(plain, [["Try again", () => { this.ready = this._load(); }]]);
    if (error instanceof Refused && error.status === 401) this.renew();
    else if (!(error instanceof Refused)) console.error(error);
  }

  setImage({ numbers, how }) {
    this.volume.setImage(numbers, how);
    this.presets = presetsOf(how, this.data.modality);
    this.panel.preset.replaceChildren(...this.presets.map(([name], n) => new Option(name, n)));
    this.setWindow(how.level, how.width);
  }

  _goToTumour() {
    const position = this.editor.largest(this.mainPlane, PROPOSED);
    if (position) this.moveTo(position);
  }

  // -- planes -------------------------------------------------------------------------------

  get mainPlane() {
    return Object.values(PLANES).find((plane) => plane.through === this.data.sliceAxis);
  }

  _makeViews() {
    const keys = Object.keys(PLANES);
    const first = keys.find((key) => PLANES[key] === this.mainPlane);
    this.views = [first, ...keys.filter((key) => key !== first)]
      .map((key) => new View(key, PLANES[key], this.volume));
    this.views.forEach((view) => attachPointer(this, view));
    this.place();
  }

  place() {
    const [first, ...others] = this.views, other = this.beside.view;
    const shown = [first, ...(other ? [other] : []), ...others];
    this.panel.planes.replaceChildren(...shown.map((view) => view.element));
    this.panel.planes.classList.toggle("beside", Boolean(other));
    this.active = this.views[0];
  }

  swap() {
    this.views.push(this.views.shift());
    this.place();
    this.views.forEach((view) => { view.reset(); view.resize(); });
    this.invalidate();
  }

  _listen() {
    if (this.left) return;
    this.unlisten?.();
    this.unlisten = listenForKeys(this);
    this.resizer?.disconnect();
    this.resizer = new ResizeObserver(() => {
      this.views.forEach((view) => view.resize());
      this.beside.view?.resize();
      this.invalidate();
    });
    this.resizer.observe(this.panel.planes);
    this.views.forEach((view) => view.resize());
    this.guard = (event) => { if (this.saving.dirty || this.saving.running) event.preventDefault(); };
    addEventListener("beforeunload", this.guard);
  }

  moveTo(position) {
    this.position = position.map((p, axis) =>
      Math.max(0, Math.min(this.volume.shape[axis] - 1, Math.round(p))));
    for (const view of this.views) view.slice = this.position[view.plane.through];
    this.invalidate();
  }

  step(view, by) {
    const next = [...this.position];
    next[view.plane.through] += by;
    this.moveTo(next);
  }

  setWindow(level, width) {
    this.window = { level, width: Math.max(width, 1e-6) };
    this.grey = this.volume.grey(this.window.level, this.window.width);
    this.greyVersion++;
    const show = (x) => Number(x.toPrecision(4)).toString();
    this.panel.windowText.textContent = `Level ${show(level)}, width ${show(this.window.width)}`;
    this.invalidate();
  }

  // -- drawing ------------------------------------------------------------------------------

  invalidate() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.paintNow();
    });
  }

  paintNow() {
    if (!this.grey) return;
    const layers = this._layers();
    for (const view of this.views) {
      const here = this.pen?.view === view && (this.pen.slice ?? view.slice) === view.slice;
      const pen = here ? this.pen : null;
      view.draw({
        grey: this.grey, greyVersion: this.greyVersion, smooth: true, layers, pen,
        heat: this.looking.shownHeat,
        marks: {
          prompt: this.look.hidden ? null : this.prompts.marks(view),
          line: this.look.hidden ? null : this.listing.line(view),
          cursor: this.cursor.mark(view),
        },
        cross: this.tool === "look" ? this.position : null,
      });
      const place = `${view.plane.name}, slice ${view.slice + 1} of ${view.depth}`;
      if (view.caption.textContent !== place) {
        view.caption.textContent = place;
        view.canvas.setAttribute("aria-label", place);
      }
    }
    this.beside.draw();
    const main = this.position[this.data.sliceAxis];
    this.watching?.look(layers.length ? main : null);
  }

  _layers() {
    if (this.look.hidden) return [];
    const opacity = this.look.opacity / 100, edited = this.volume.differing > 0;
    const layers = [];
    if (!edited) layers.push({ bit: PROPOSED, style: this.look.style, opacity, width: 2 });
    // Thin and below, so that one's own line covers it where the two agree.
    else if (this.look.proposal) {
      layers.push({ bit: PROPOSED, style: "outline", opacity: 1, width: 1.25 });
    }
    if (edited) layers.push({ bit: MINE, style: this.look.style, opacity, width: 2 });
    if (this.volume.suggestion) {
      layers.push({ bit: SUGGESTED, style: "fill", opacity: 0.25, width: 0 });
      layers.push({ bit: SUGGESTED, style: "outline", opacity: 1, width: 2.5, dashed: true });
    }
    return layers;
  }

  // -- what the panel shows -----------------------------------------------------------------

  edited() {
    this.saving.touched();
    this.listing.touched();
    this.refresh();
    this.invalidate();
  }

  refresh() {
    const { panel, watching, volume, data } = this;
    if (!watching) return;
    const all = watching.must.size, left = watching.missing.size;
    panel.bar.value = all ? (all - left) / all : 1;
    panel.seen.textContent = `Seen ${all - left} of ${all} ${data.mustText}`;
    panel.unseen.disabled = watching.nextAfter(-1) === undefined;
    panel.undo.disabled = !this.editor.canUndo;
    panel.redo.disabled = !this.editor.canRedo;
    const edited = volume.differing > 0;
    panel.volumes.textContent = `Proposal ${this.sizeText(volume.counts[PROPOSED])}` +
      (edited ? `, mine ${this.sizeText(volume.counts[MINE])}` : "");
    panel.size.textContent = `${Number(this.brushMm.toPrecision(3))} ${data.lengthUnit}`;
    this.decision.refresh(edited, left);
  }

  sizeText(voxels) {
    if (this.data.lengthUnit !== "mm") return `${voxels} voxels`;
    const [x, y, z] = this.volume.spacing;
    return `${((voxels * x * y * z) / 1000).toFixed(2)} ml`;
  }

  // -- actions ------------------------------------------------------------------------------

  _actions() {
    return {
      tool: (id) => this.setTool(id),
      undo: () => this.editor.undo(),
      redo: () => this.editor.redo(),
      size: (by) => this.resizeBrush(by),
      interpolate: () => this.interpolate(),
      revert: () => this.editor.revert(),
      take: (replace) => this.prompts.take(replace),
      carry: () => this.prompts.carry(),
      stop: () => this.prompts.stop(),
      discard: () => this.prompts.discard(),
      other: (number) => this.beside.choose(number),
      heat: () => this.looking.toggleHeat(),
      cursor: () => this.cursor.toggle(),
      swap: () => this.swap(),
      fit: () => this.looking.fit(),
      unseen: () => this.nextUnseen(),
      hide: () => this.looking.toggleHidden(),
      style: () => this.looking.toggleStyle(),
      opacity: (percent) => { this.look.opacity = percent; this.invalidate(); },
      proposal: (on) => { this.look.proposal = on; this.invalidate(); },
      preset: (n) => this.setWindow(this.presets[n][1], this.presets[n][2]),
      sequence: (n) => this.looking.changeSequence(n),
      form: () => this.decision.changed(),
      decide: (verdict) => this.decision.decide(verdict),
    };
  }

  setTool(id) {
    if (this.panel.tools[id].disabled) return;
    this.cursor.lift();
    this.tool = id;
    this.pen = null;
    for (const [name, button] of Object.entries(this.panel.tools)) {
      button.setAttribute("aria-pressed", String(name === id));
    }
    this.panel.planes.dataset.tool = id;
    this.panel.tolerance.parentElement.hidden = id !== "threshold";
    this.invalidate();
  }

  resizeBrush(by) {
    const step = Math.min(...this.volume.spacing);
    this.brushMm = Math.max(step, Math.round(this.brushMm / step + by) * step);
    if (this.pen?.at) this.pen.radius = this.brushMm / 2;
    this.refresh();
    this.invalidate();
  }

  interpolate() {
    if (this.data.readonly) return;
    const count = this.editor.interpolate(this.active.plane, this.active.slice);
    if (!count) this.panel.say("Nothing lies between two drawn slices here.", "bad");
  }

  nextUnseen() {
    const next = this.watching?.nextAfter(this.position[this.data.sliceAxis]);
    if (next === undefined) return;
    const position = [...this.position];
    position[this.data.sliceAxis] = next;
    this.moveTo(position);
  }

  askWhich() {
    this.panel.alert(
      "Another window has changed this mask meanwhile. Nothing was overwritten.",
      [["Keep mine", () => this._settle("keepMine")], ["Take the other", () => this._settle("takeOther")]],
    );
  }

  // What is drawn stays on the screen until the reader has read this: it is not taken along.
  askToLookAgain() {
    this.panel.alert(
      "The proposal has changed; look again. Nothing was recorded about the present one. What you " +
      "drew about the one before stays on the screen until then.",
      [["Look again", () => this.trigger("again", { why: "changed", at: Date.now() })]],
    );
  }

  async _settle(how) {
    try {
      await this.saving[how]();
      this.refresh();
      this.invalidate();
    } catch {
      this.askWhich();
    }
  }
}
