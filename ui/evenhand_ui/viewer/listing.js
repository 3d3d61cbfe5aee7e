// The list of lesions at the side: kept up to date after edits, each leads to its place.

import { el } from "./panel.js";
import { findLesions } from "./lesions.js";

const SHOWN = 12;
const WAIT_MS = 250;

export class Listing {
  constructor(app) {
    this.app = app;
    this.version = -1;
    this.chosen = null;
  }

  // After an edit: soon, once the hand rests, because a large mask takes some ms.
  touched() {
    this.chosen = null;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.update(), WAIT_MS);
  }

  leave() { clearTimeout(this.timer); }

  update() {
    const { app } = this, { volume, panel, data } = app;
    if (this.version === volume.version) return;
    this.version = volume.version;
    const sizes = data.lengthUnit === "mm" ? volume.spacing : [1, 1, 1];
    const unit = data.lengthUnit === "mm" ? "mm" : "voxels";
    const lesions = findLesions(volume, app.mainPlane, sizes);
    panel.lesions.replaceChildren(...lesions.slice(0, SHOWN).map((lesion, n) => {
      const extent = `${lesion.length.toFixed(1)} × ${lesion.width.toFixed(1)} ${unit}`;
      return el("li", {}, el("button", {
        type: "button", title: "Go to the slice where it is longest",
        onclick: () => this.choose(lesion, extent),
      }, el("b", {}, String(n + 1)), el("span", {}, app.sizeText(lesion.voxels)),
      el("span", {}, extent), el("span", {}, `slice ${lesion.slice + 1}`)));
    }));
    const more = lesions.length - SHOWN;
    panel.lesionCount.textContent = lesions.length === 0 ? "No lesion in the mask"
      : `${lesions.length} lesion${lesions.length > 1 ? "s" : ""}` +
        (more > 0 ? `, the ${SHOWN} largest:` : "");
  }

  choose(lesion, text) {
    const { app } = this, { across, down, through } = app.mainPlane;
    const position = [...app.position];
    position[through] = lesion.slice;
    position[across] = (lesion.ends[0][0] + lesion.ends[1][0]) / 2;
    position[down] = (lesion.ends[0][1] + lesion.ends[1][1]) / 2;
    this.chosen = { ...lesion, text };
    app.moveTo(position);
  }

  // For the picture: the longest diameter of the chosen lesion, as columns and rows.
  line(view) {
    const { chosen } = this;
    if (!chosen || view.plane !== this.app.mainPlane || view.slice !== chosen.slice) return null;
    const ends = chosen.ends.map(([a, d]) => [view.columns - a - 0.5, view.rows - d - 0.5]);
    return { ends, text: chosen.text };
  }
}
