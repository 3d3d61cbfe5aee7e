// Autosave: after each stroke to the server, and until that has it, to this browser.

import { backup, pack, unpack } from "./backup.js";
import { Refused } from "./api.js";
import { MINE } from "./volume.js";

const RETRY_MS = [1000, 2000, 4000, 8000];

export class Saving {
  // `tell(text, kind)`: status line; `renew()`: ask for a new ticket; `conflict()`: ask the reader.
  // `changed()`: the proposal is another one now.
  constructor({ api, volume, editor, key, tell, renew, conflict, lost, changed }) {
    Object.assign(this, { api, volume, editor, key, tell, renew, conflict, lost, changed });
    this.revision = 0;
    this.dirty = false;
    this.running = null;
    this.failures = 0;
    this.stopped = false;
    this.gone = false;
  }

  // What was painted before: the server's draft, or what this browser kept of it.
  async load() {
    const draft = await this.api.mask("draft");
    if (draft) {
      this.volume.setMask(draft.bytes, draft.box, MINE);
      this.editor.strokes = draft.strokes;
      this.revision = draft.revision;
    }
    const kept = await backup.read(this.key);
    if (!kept) return;
    if (kept.base === this.revision) {
      await this._take(kept);
      this.tell("What was not saved before has been brought back.", "good");
      this.touched();
    } else if (kept.packed) {
      this.stopped = true;
      this.kept = kept;
      this.conflict();
    }
  }

  touched() {
    this.dirty = true;
    if (this.stopped) this._keep();
    else this._start();
  }

  // Resolves when the server has everything; rejects with a sentence when it cannot.
  async flush() {
    while (this.dirty || this.running) {
      if (this.stopped) throw new Error("Your mask is not saved yet; see above it.");
      if (this.failures > 0) throw new Error("The server does not answer; your mask is kept here.");
      await (this.running ?? this._start());
    }
  }

  newTicket() {
    if (this.dirty) this._start();
  }

  // After a conflict: one's own on top of the other's, or the other's.
  async keepMine() {
    await this.keeping;
    const draft = await this.api.mask("draft");
    this.revision = draft?.revision ?? 0;
    if (this.kept) await this._take(this.kept);
    this._goOn();
    this.touched();
  }

  async takeOther() {
    const draft = await this.api.mask("draft");
    this.revision = draft?.revision ?? 0;
    if (draft) this.volume.setMask(draft.bytes, draft.box, MINE);
    else this.volume.copyProposal(this.volume.box);
    this.editor.strokes = draft?.strokes ?? 0;
    this.editor.done = [];
    this.editor.undone = [];
    this.dirty = false;
    await this.keeping;
    await backup.drop(this.key);
    this._goOn();
    this.tell("Saved", "good");
    if (this.dirty) this._start();
  }

  // The last strokes are still saved, or kept in the browser for the next time.
  leave() {
    this.gone = true;
    clearTimeout(this.timer);
    Promise.resolve(this.running).then(() => {
      if (this.dirty && !this.stopped) this._save();
    });
  }

  _goOn() {
    this.kept = null;
    this.stopped = false;
    this.failures = 0;
  }

  async _take(kept) {
    this.volume.setMask(await unpack(kept.packed), kept.box, MINE);
    this.editor.strokes = kept.strokes;
  }

  _start() {
    clearTimeout(this.timer);
    if (this.running || this.stopped || this.gone) return this.running ?? Promise.resolve();
    this.running = this._save().finally(() => {
      this.running = null;
      if (this.dirty && !this.stopped && !this.gone) this._later();
    });
    return this.running;
  }

  _later() {
    const wait = this.failures ? RETRY_MS[Math.min(this.failures, RETRY_MS.length) - 1] : 0;
    this.timer = setTimeout(() => this._start(), wait);
  }

  // While nothing is sent to the server, this browser has the latest stroke; one at a time, so that
  // the last one stays. What an earlier visit kept is not overwritten before the reader has chosen.
  _keep() {
    this.keeping = Promise.resolve(this.keeping).then(async () => {
      if (this.stopped && !this.kept) await this._backUp();
    });
  }

  async _backUp() {
    const { box, bytes } = this.volume.snapshot();
    const draft = { box, strokes: this.editor.strokes, base: this.revision };
    draft.packed = await pack(bytes);
    await backup.keep(this.key, draft);
    return draft;
  }

  async _save() {
    this.dirty = false;
    this.tell("Saving ...", "busy");
    const draft = await this._backUp();
    try {
      this.revision = await this.api.save(draft);
      this.failures = 0;
      if (!this.dirty) {
        await backup.drop(this.key);
        this.tell("Saved", "good");
      }
    } catch (error) {
      this.dirty = true;
      this._failed(error);
      if (this.stopped) this._keep();
    }
  }

  _failed(error) {
    this.failures++;
    if (!(error instanceof Refused)) {
      this.tell("The server does not answer. Your mask is kept in this browser; trying again.", "bad");
    } else if (error.status === 401) {
      this.renew();
    } else if (error.status === 412) {
      this.stopped = true;
      this.conflict();
    } else if (error.status >= 500) {
      this.tell("The server cannot save now. Your mask is kept in this browser; trying again.", "bad");
    } else {
      this.stopped = true;
      this.tell(error.message, "bad");
      if (error.changed) this.changed();
      else if (error.status === 409 || error.status === 403) this.lost();
    }
  }
}
