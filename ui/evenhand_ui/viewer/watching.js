// Which slices were on the screen with the mask on them. The server keeps the account and judges it.

import { Refused } from "./api.js";

const DWELL_MS = 60;
const SEND_MS = 250;
const BEAT_MS = 20000;

export class Watching {
  constructor({ api, must, missing, changed, renew, stale, readonly }) {
    Object.assign(this, { api, changed, renew, stale, readonly });
    this.must = new Set(must);
    this.missing = new Set(missing);
    this.shown = new Set(must.filter((k) => !this.missing.has(k)));
    this.active = true;
    this.beat = setInterval(() => {
      if (this.active) this.send();
      this.active = false;
    }, BEAT_MS);
    if (!readonly) this.send();
  }

  // The slice that is on the screen now; null: the mask is hidden.
  look(slice) {
    this.active = true;
    if (slice === this.current) return;
    this.current = slice;
    clearTimeout(this.dwell);
    if (slice === null) return;
    this.dwell = setTimeout(() => {
      if (this.shown.has(slice)) return;
      this.shown.add(slice);
      this._soon();
    }, DWELL_MS);
  }

  nextAfter(slice) {
    const open = [...this.must].filter((k) => !this.shown.has(k)).sort((a, b) => a - b);
    return open.find((k) => k > slice) ?? open[0];
  }

  async send() {
    if (this.readonly) return;
    clearTimeout(this.timer);
    this.timer = null;
    try {
      const { missing } = await this.api.tell("seen", { slices: [...this.shown] });
      this.missing = new Set(missing);
      this.changed();
      if (missing.some((k) => this.shown.has(k))) this._soon();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) this.renew();
      if (error instanceof Refused && error.changed) this.stale();
      // Whatever it was: what was shown is reported again with the next slice.
    }
  }

  leave() {
    clearInterval(this.beat);
    clearTimeout(this.dwell);
    clearTimeout(this.timer);
  }

  _soon() {
    this.timer ??= setTimeout(() => this.send(), SEND_MS);
  }
}
