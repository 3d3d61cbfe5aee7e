// Another study of the same patient, beside the one that is read: the slice that lies at the same
// place in the patient, whatever its grid. For looking only.

import { Refused } from "./api.js";
import { View } from "./view.js";
import { Volume } from "./volume.js";

export class Beside {
  constructor(app) {
    this.app = app;
    this.view = null;
    this.number = null;
  }

  toggle() {
    if (!this.app.data.others.length) {
      this.app.panel.say("There is no other study of this patient here.", "bad");
      return;
    }
    this.choose(this.number === null ? 0 : null);
  }

  // Show another study by its number; null: none.
  async choose(number) {
    const { app } = this;
    this.number = number;
    app.panel.other.value = number ?? "";
    this.view = null;
    if (number !== null) {
      app.panel.say("Loading ...", "busy");
      try {
        const study = await app.api.study(number);
        if (this.number !== number || app.left) return;
        this._show(study, app.data.others[number]);
        app.panel.say("", "");
      } catch (error) {
        this.number = null;
        app.panel.other.value = "";
        app.panel.say(error instanceof Refused ? error.message : "The study did not arrive.", "bad");
      }
    }
    app.place();
    app.views.forEach((view) => view.resize());
    this.view?.resize();
    app.invalidate();
  }

  _show({ grid, how, numbers }, name) {
    const { app } = this, volume = new Volume(grid);
    volume.setImage(numbers, how);
    const view = new View("other", app.mainPlane, volume);
    view.element.classList.add("other");
    view.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      app.step(app.views[0], Math.sign(event.deltaY));
    }, { passive: false });
    this.view = view;
    this.name = name;
    this.grey = volume.grey(how.level, how.width);
    this.toOther = times(inverse(grid.affine), app.data.affine);
  }

  // Where the crosshair lies in the other study, in its voxels.
  place() {
    const [x, y, z] = this.app.position;
    return this.toOther.slice(0, 3).map(([a, b, c, d]) => a * x + b * y + c * z + d);
  }

  draw() {
    const { view, app } = this;
    if (!view) return;
    const place = this.place(), { through } = view.plane;
    const slice = Math.round(place[through]);
    const covered = slice >= 0 && slice < view.depth;
    if (covered) view.slice = slice;
    const own = app.views.find((one) => one.plane === view.plane);
    view.zoom = own.zoom;
    view.draw({
      grey: this.grey, greyVersion: 0, smooth: true, layers: [], heat: null, marks: {}, pen: null,
      cross: covered ? place : null,
    });
    const text = covered ? `${this.name}, slice ${view.slice + 1} of ${view.depth}`
      : `${this.name}: does not reach this place`;
    if (view.caption.textContent !== text) {
      view.caption.textContent = text;
      view.canvas.setAttribute("aria-label", text);
    }
    view.element.classList.toggle("uncovered", !covered);
  }
}

function times(a, b) {
  return a.map((row) => b[0].map((_, n) => row.reduce((sum, value, k) => sum + value * b[k][n], 0)));
}

// Of a matrix that turns, scales and shifts: Gauss and Jordan, with the largest pivot first.
function inverse(matrix) {
  const rows = matrix.map((row, n) => [...row, ...row.map((_, k) => (k === n ? 1 : 0))]);
  rows.forEach((_, n) => {
    const best = rows.slice(n).reduce((at, row, k) =>
      (Math.abs(row[n]) > Math.abs(rows[at][n]) ? n + k : at), n);
    [rows[n], rows[best]] = [rows[best], rows[n]];
    const pivot = rows[n][n];
    rows[n] = rows[n].map((value) => value / pivot);
    rows.forEach((row, k) => {
      if (k !== n) rows[k] = row.map((value, c) => value - row[n] * rows[n][c]);
    });
  });
  return rows.map((row) => row.slice(row.length / 2));
}
