// How it is shown: zoom and place, masks on or off, line or fill, uncertainty, sequence.

import { Refused } from "./api.js";
import { Heat } from "./heat.js";

const PAN_PX = 40;

export class Looking {
  constructor(app) {
    this.app = app;
    this.heat = null;
  }

  get shownHeat() {
    const { look } = this.app;
    return look.heat && !look.hidden ? this.heat : null;
  }

  zoom(factor) {
    const view = this.app.active, box = view.canvas.getBoundingClientRect();
    const [clientX, clientY] = this.app.cursor.on ? view.onScreen(this.app.cursor.at)
      : [box.left + box.width / 2, box.top + box.height / 2];
    view.zoomAt({ clientX, clientY }, factor);
    this.app.invalidate();
  }

  pan(columns, rows) {
    this.app.active.pan[0] -= columns * PAN_PX;
    this.app.active.pan[1] -= rows * PAN_PX;
    this.app.invalidate();
  }

  fit() {
    this.app.views.forEach((view) => view.reset());
    this.app.invalidate();
  }

  toggleHidden() {
    this.app.look.hidden = !this.app.look.hidden;
    this.app.panel.hide.setAttribute("aria-pressed", String(this.app.look.hidden));
    this.app.panel.hide.textContent = this.app.look.hidden ? "Show masks" : "Hide masks";
    this.app.paintNow();
  }

  toggleStyle() {
    const fill = this.app.look.style === "outline";
    this.app.look.style = fill ? "fill" : "outline";
    // An outline covers nothing and may be strong; a fill must let the anatomy through.
    this.app.look.opacity = fill ? 35 : 90;
    this.app.panel.opacity.value = this.app.look.opacity;
    this.app.panel.style.textContent = fill ? "Outline" : "Fill";
    this.app.invalidate();
  }

  async toggleHeat() {
    if (!this.app.data.uncertainty) {
      this.app.panel.say("This run has kept no probabilities, so there is no uncertainty to show.", "bad");
      return;
    }
    this.app.look.heat = !this.app.look.heat;
    this.app.panel.heat.checked = this.app.look.heat;
    this.app.panel.legend.hidden = !this.app.look.heat;
    try {
      if (this.app.look.heat) this.heat ??= new Heat(await this.app.api.heat());
    } catch (error) {
      this.app.look.heat = this.app.panel.heat.checked = false;
      this.app.panel.legend.hidden = true;
      this.app.panel.say(error instanceof Refused ? error.message : "It did not arrive.", "bad");
    }
    this.app.invalidate();
  }

  async changeSequence(number) {
    this.app.panel.say("Loading ...", "busy");
    try {
      this.app.setImage(await this.app.api.image(number));
      this.app.panel.say("", "");
    } catch (error) {
      this.app.panel.say(error instanceof Refused ? error.message : "The image did not arrive.", "bad");
    }
  }
}
