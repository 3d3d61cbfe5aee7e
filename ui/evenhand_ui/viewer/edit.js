// Changes of one's own mask, stroke by stroke. A stroke is the list of voxels that it turned over,
// so undo and redo are the same walk and no stroke is ever too old.

import { along, between, disc, enclosed, polygon } from "./shapes.js";
import { MINE, PROPOSED, SUGGESTED } from "./volume.js";

export class Editor {
  constructor(volume, changed) {
    this.volume = volume;
    this.changed = changed;
    this.done = [];
    this.undone = [];
    this.strokes = 0;
    this.open = null;
  }

  get canUndo() { return this.done.length > 0; }
  get canRedo() { return this.undone.length > 0; }

  // One stroke: `draw` calls `set(index)` for each voxel that is to have `on`.
  stroke(on, draw) {
    this.begin(on);
    draw(this.set);
    return this.end();
  }

  begin(on) {
    const flipped = [];
    const want = on ? MINE : 0;
    this.open = flipped;
    this.set = (index) => {
      if ((this.volume.mask[index] & MINE) !== want) {
        this.volume.flip(index);
        flipped.push(index);
      }
    };
  }

  end() {
    const flipped = this.open;
    this.open = null;
    if (!flipped?.length) return false;
    this.done.push(Uint32Array.from(flipped));
    this.undone = [];
    this.strokes++;
    this.changed();
    return true;
  }

  undo() { return this._move(this.done, this.undone); }
  redo() { return this._move(this.undone, this.done); }

  _move(from, to) {
    if (this.open || !from.length) return false;
    const flipped = from.pop();
    for (const index of flipped) this.volume.flip(index);
    to.push(flipped);
    this.strokes++;
    this.changed();
    return true;
  }

  // Within the open stroke: a brush dragged over a slice. `allowed`: which voxels it may take.
  brush(plane, slice, from, to, radius, allowed) {
    const size = [this.volume.spacing[plane.across], this.volume.spacing[plane.down]];
    const set = this._setter(plane, slice, allowed);
    for (const [c, r] of along(from, to, radius, size)) disc(c, r, radius, size, set);
  }

  polygon(plane, slice, points, on) {
    const { width, height } = this.volume.walk(plane, slice);
    return this.stroke(on, () => {
      polygon(points, width, height, this._setter(plane, slice));
    });
  }

  // Returns false where the place is not enclosed.
  fill(plane, slice, column, row) {
    const { mask, width, height } = this.cut(plane, slice);
    const found = enclosed(mask, width, height, column, row);
    if (!found) return false;
    const set = () => this._setter(plane, slice);
    this.stroke(true, () => {
      const put = set();
      for (const at of found) put(at % width, Math.trunc(at / width));
    });
    return true;
  }

  // Fill the empty slices nearest to `slice` that lie between two drawn ones; how many were filled.
  interpolate(plane, slice) {
    const drawn = this.volume.slicesOf(plane.through, MINE);
    const gaps = [];
    for (let n = 0; n + 1 < drawn.length; n++) {
      const [low, high] = [drawn[n], drawn[n + 1]];
      if (high - low > 1) gaps.push([Math.max(low - slice, slice - high, 0), low, high]);
    }
    if (!gaps.length) return 0;
    const [, low, high] = gaps.sort((a, b) => a[0] - b[0])[0];
    const first = this.cut(plane, low), second = this.cut(plane, high);
    const size = [this.volume.spacing[plane.across], this.volume.spacing[plane.down]];
    const at = between(first.mask, second.mask, first.width, first.height, size);
    this.stroke(true, () => {
      for (let k = low + 1; k < high; k++) {
        const put = this._setter(plane, k);
        at((k - low) / (high - low)).forEach((m, n) => {
          if (m) put(n % first.width, Math.trunc(n / first.width));
        });
      }
    });
    return high - low - 1;
  }

  // Back to the proposal, as one stroke that can be undone.
  revert() {
    const { volume } = this;
    this.open = [];
    volume._eachInBox(volume.box, (i) => {
      const m = volume.mask[i];
      if ((m & MINE) !== (m & PROPOSED) >> 1) this.open.push(i);
    });
    for (const index of this.open) volume.flip(index);
    return this.end();
  }

  // Take a suggestion, as one stroke: added to one's own mask or (`slices`: numbers along a plane's
  // axis) in its place there.
  adopt(plane, slices) {
    const { mask } = this.volume;
    this.open = [];
    this.volume._eachInBox(this.volume.suggestion, (i) => {
      if ((mask[i] & (SUGGESTED | MINE)) === SUGGESTED) this.open.push(i);
    });
    for (const slice of slices) {
      const { start, stepAcross, stepDown, width, height } = this.volume.walk(plane, slice);
      for (let r = 0; r < height; r++) {
        for (let c = 0, i = start + r * stepDown; c < width; c++, i += stepAcross) {
          if ((mask[i] & (SUGGESTED | MINE)) === MINE) this.open.push(i);
        }
      }
    }
    for (const index of this.open) this.volume.flip(index);
    return this.end();
  }

  // The slice along an axis on which a mask is largest, and the middle of it there, as a position.
  largest(plane, bit) {
    let best = null, most = 0;
    for (const k of this.volume.slicesOf(plane.through, bit)) {
      const cut = this.cut(plane, k, bit), count = cut.mask.reduce((sum, m) => sum + m, 0);
      if (count > most) [best, most] = [{ k, ...cut }, count];
    }
    if (!best) return null;
    let across = 0, down = 0;
    best.mask.forEach((m, n) => {
      across += m * (n % best.width);
      down += m * Math.trunc(n / best.width);
    });
    const position = [0, 0, 0];
    position[plane.through] = best.k;
    position[plane.across] = best.width - 1 - Math.round(across / most);
    position[plane.down] = best.height - 1 - Math.round(down / most);
    return position;
  }

  // One's own mask on a slice, as pixels.
  cut(plane, slice, bit = MINE) {
    const { start, stepAcross, stepDown, width, height } = this.volume.walk(plane, slice);
    const mask = new Uint8Array(width * height);
    for (let r = 0, at = 0; r < height; r++) {
      for (let c = 0, i = start + r * stepDown; c < width; c++, i += stepAcross) {
        mask[at++] = this.volume.mask[i] & bit ? 1 : 0;
      }
    }
    return { mask, width, height };
  }

  _setter(plane, slice, allowed) {
    const { start, stepAcross, stepDown, width, height } = this.volume.walk(plane, slice);
    return (c, r) => {
      if (c < 0 || r < 0 || c >= width || r >= height) return;
      const index = start + c * stepAcross + r * stepDown;
      if (!allowed || allowed(index)) this.set(index);
    };
  }
}
