// The form of the decision: what may be pressed, what is sent, and what was typed, which stays until
// it is recorded: in this tab, so that neither a reload nor a page that is drawn anew loses it.

import { Refused } from "./api.js";

const NAME = "evenhand-form:";
const AGAIN_MS = 4000;

export class Decision {
  constructor(app) {
    this.app = app;
    this.key = NAME + app.data.draftKey;
    this.sent = null;  // the verdict under way, up to its signature
    this.signing = app.data.signing;
    const { reason, comment } = app.panel, kept = read(this.key);
    if (app.data.reasons.some(([code]) => code === kept.reason)) reason.value = kept.reason;
    comment.value = (kept.comment ?? "").slice(0, app.data.commentLimit);
    if (this.signing) this.sent = "signature";
    this.taken = this.signing;  // the server has taken it
  }

  changed() {
    const { reason, comment } = this.app.panel;
    keep(this.key, { reason: reason.value, comment: comment.value });
    this.app.refresh();
  }

  // The page tells whether it asks for a signature: once it does not any more, all is open again.
  update(signing) {
    if (signing) clearTimeout(this.timer);
    const over = this.signing && !signing;
    this.signing = signing;
    if (!over) return;
    this.sent = null;
    this.taken = false;
    this.app.panel.say("Nothing was recorded");
    this.app.refresh();
  }

  // The case is left; what was recorded, signed where it must be, need not be typed again.
  leave() {
    clearTimeout(this.timer);
    if (this.taken) drop(this.key);
  }

  refresh(edited, left) {
    const { data, panel } = this.app, { verdicts, why, reason } = panel;
    const closed = data.readonly || this.sent;
    verdicts.accept.disabled = closed || edited || left > 0;
    verdicts.correct.disabled = closed || !edited || !reason.value;
    verdicts.reject.disabled = verdicts["cannot-judge"].disabled = closed || edited || !reason.value;
    why.textContent = data.readonly ? "This case is open for looking only."
      : edited && !reason.value ? "You have changed the mask. Choose a reason to record it."
        : edited ? "Record your mask, or go back to the proposal."
          : left > 0 ? "Accept opens when all slices with tumour were seen with the mask on."
            : !reason.value ? "To reject, choose a reason." : "";
  }

  async decide(verdict) {
    const { app } = this, { panel } = app;
    if (this.sent || panel.verdicts[verdict].disabled) return;
    this.sent = verdict;
    app.refresh();
    let asked = false;
    try {
      await app.saving.flush();
      asked = true;
      const { position } = await app.api.tell("decision", {
        verdict, reason: panel.reason.value, comment: panel.comment.value,
        revision: app.saving.revision,
      });
      this.taken = true;
      if (position === null) panel.say("Not recorded yet: it waits for your signature");
      else panel.say("Recorded", "good");
      this._tellPage("decided", { position, verdict }, AGAIN_MS);
    } catch (error) {
      if (asked && !(error instanceof Refused && error.answer.error)) {
        this._answerLost();
        return;
      }
      this.sent = null;
      app.refresh();
      if (error instanceof Refused && error.status === 401) app.renew();
      if (error instanceof Refused && error.changed) app.askToLookAgain();
      else if (error instanceof Refused && error.status === 412) app.askWhich();
      else panel.alert(error.message);
    }
  }

  // The server may have recorded it before the answer was lost: nothing is sent again before the
  // reader has seen what stands.
  _answerLost() {
    this.app.panel.alert(
      "The server did not answer. It is not known whether your decision was recorded. The case is " +
      "loaded again as soon as the server is back.");
    this._tellPage("again", { why: "unknown" }, AGAIN_MS);
  }

  // The page turns to the signature, to the next case, or to this one anew. What it is told while it is being drawn can
  // be lost, so it is told again, ever more rarely, until it has turned.
  _tellPage(name, what, wait) {
    this.app.trigger(name, { ...what, at: Date.now() });
    this.timer = setTimeout(() => this._tellPage(name, what, 2 * wait), wait);
  }
}

// A browser that keeps nothing (private window, policy) is no reason not to work.
function keep(key, form) {
  try { sessionStorage.setItem(key, JSON.stringify(form)); } catch { /* see above */ }
}

function read(key) {
  try { return JSON.parse(sessionStorage.getItem(key)) ?? {}; } catch { return {}; }
}

function drop(key) {
  try { sessionStorage.removeItem(key); } catch { /* see above */ }
}
