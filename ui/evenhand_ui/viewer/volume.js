// A case in memory: image and two masks, x towards the patient's right, y anterior, z superior.
//
// The server has turned the volume to these axes, so radiological display is one rule for all
// planes: every axis runs against the screen. Axial and coronal show the patient's right on the
// left, sagittal faces left.

export const PLANES = {
  axial: { name: "Axial", across: 0, down: 1, through: 2 },
  coronal: { name: "Coronal", across: 0, down: 2, through: 1 },
  sagittal: { name: "Sagittal", across: 1, down: 2, through: 0 },
};

// Bits of `mask`.
export const MINE = 1;
export const PROPOSED = 2;
export const SUGGESTED = 4;
const ALL = MINE | PROPOSED | SUGGESTED;

const OFFSET = 32768;

export class Volume {
  constructor({ shape, spacing, letters }) {
    this.shape = shape;
    this.spacing = spacing;
    this.letters = letters;
    this.stride = [1, shape[0], shape[0] * shape[1]];
    this.mask = new Uint8Array(shape[0] * shape[1] * shape[2]);
    this.image = null;
    this.how = { slope: 1, intercept: 0 };
    this.counts = { [MINE]: 0, [PROPOSED]: 0 };
    this.differing = 0;
    // The model's answer to a prompt, neither taken nor thrown away: its box, and how many voxels.
    this.suggestion = null;
    this.suggested = 0;
    // Holds all of one's own mask, and perhaps more: it only grows.
    this.box = null;
    this.version = 0;
  }

  setImage(numbers, how) {
    if (numbers.length !== this.mask.length) throw new Error("The image has another size.");
    this.image = numbers;
    this.how = how;
  }

  value(index) {
    return this.image[index] * this.how.slope + this.how.intercept;
  }

  // The table from stored numbers to opaque grey, for one window.
  grey(level, width) {
    const table = new Uint32Array(65536);
    const { slope, intercept } = this.how;
    for (let n = 0; n < 65536; n++) {
      const share = ((n - OFFSET) * slope + intercept - level) / width + 0.5;
      const g = share <= 0 ? 0 : share >= 1 ? 255 : Math.trunc(share * 255);
      table[n] = 0xff000000 | (g << 16) | (g << 8) | g;
    }
    return table;
  }

  // Put a packed mask (the voxels of a box, x fastest) in the place of the mask of a bit.
  setMask(bytes, box, bit) {
    const keep = ~bit & ALL;
    this._eachInBox(this.box, (i) => { this.mask[i] &= keep; });
    let at = 0;
    this._eachInBox(box, (i) => { if (bytes[at++]) this.mask[i] |= bit; });
    if (bit === MINE) this._grow(box);
    this.recount();
  }

  // `box` holds the proposal; null: there is nothing anywhere.
  copyProposal(box) {
    if (!box) return;
    this._eachInBox(box, (i) => { this.mask[i] = this.mask[i] & PROPOSED ? MINE | PROPOSED : 0; });
    this._grow(box);
    this.recount();
  }

  // Put a suggestion (the voxels of a box) in the place of the one before; null: none.
  suggest(bytes, box) {
    this._eachInBox(this.suggestion, (i) => { this.mask[i] &= ~SUGGESTED; });
    this.suggestion = bytes ? box : null;
    this.suggested = 0;
    let at = 0;
    this._eachInBox(this.suggestion, (i) => {
      if (!bytes[at++]) return;
      this.mask[i] |= SUGGESTED;
      this.suggested++;
    });
    this.version++;
  }

  // Put more of a suggestion (the voxels of a box) beside what there is.
  suggestMore(bytes, box) {
    const all = this.suggestion ?? box;
    this.suggestion = box.map((n, at) => (at % 2 ? Math.max(n, all[at]) : Math.min(n, all[at])));
    let at = 0;
    this._eachInBox(box, (i) => {
      if (!bytes[at++] || this.mask[i] & SUGGESTED) return;
      this.mask[i] |= SUGGESTED;
      this.suggested++;
    });
    this.version++;
  }

  recount() {
    let mine = 0, proposed = 0, differing = 0;
    this._eachInBox(this.box, (i) => {
      const m = this.mask[i];
      mine += m & 1;
      proposed += (m >> 1) & 1;
      differing += (m ^ (m >> 1)) & 1;
    });
    this.counts = { [MINE]: mine, [PROPOSED]: proposed };
    this.differing = differing;
    this.version++;
  }

  // Turn one voxel of one's own mask on or off.
  flip(index) {
    const m = (this.mask[index] ^= MINE);
    this.counts[MINE] += m & MINE ? 1 : -1;
    this.differing += (m ^ (m >> 1)) & 1 ? 1 : -1;
    const z = Math.trunc(index / this.stride[2]);
    const y = Math.trunc((index - z * this.stride[2]) / this.stride[1]);
    const x = index - z * this.stride[2] - y * this.stride[1];
    this._grow([x, x + 1, y, y + 1, z, z + 1]);
    this.version++;
  }

  // One's own mask as the server wants it: the box that holds it, and its voxels.
  snapshot() {
    const box = [...(this.box ?? [0, 0, 0, 0, 0, 0])]; // its own: strokes go on while it is packed
    const bytes = new Uint8Array((box[1] - box[0]) * (box[3] - box[2]) * (box[5] - box[4]));
    let at = 0;
    this._eachInBox(box, (i) => { bytes[at++] = this.mask[i] & MINE; });
    return { box, bytes };
  }

  // Voxels of one plane: first index, and the steps across and down the screen.
  walk(plane, slice) {
    const { across, down, through } = plane;
    const [width, height] = [this.shape[across], this.shape[down]];
    const stepAcross = -this.stride[across], stepDown = -this.stride[down];
    const start = slice * this.stride[through] - (width - 1) * stepAcross - (height - 1) * stepDown;
    return { start, stepAcross, stepDown, width, height };
  }

  // The voxels of one slice that have a bit: the box that holds them, and the voxels as 0 and 1.
  part(plane, slice, bit) {
    const { across, down, through } = plane, { stride, shape, mask } = this;
    const box = [0, 0, 0, 0, 0, 0];
    box[2 * through] = slice;
    box[2 * through + 1] = slice + 1;
    box[2 * across + 1] = shape[across];
    box[2 * down + 1] = shape[down];
    const tight = box.map((n, at) => (at % 2 ? box[at - 1] : box[at + 1])), found = [];
    this._eachInBox(box, (i) => {
      if (!(mask[i] & bit)) return;
      found.push(i);
      stride.forEach((step, axis) => {
        const n = Math.trunc(i / step) % shape[axis];
        tight[2 * axis] = Math.min(tight[2 * axis], n);
        tight[2 * axis + 1] = Math.max(tight[2 * axis + 1], n + 1);
      });
    });
    if (!found.length) return null;
    const bytes = [];
    this._eachInBox(tight, (i) => bytes.push(mask[i] & bit ? 1 : 0));
    return { box: tight, bytes: Uint8Array.from(bytes) };
  }

  // Slices (along an axis) in which a mask has a voxel.
  slicesOf(axis, bit) {
    const found = new Uint8Array(this.shape[axis]);
    const { stride, shape } = this;
    this._eachInBox(bit === SUGGESTED ? this.suggestion : this.box, (i) => {
      if (this.mask[i] & bit) found[Math.trunc(i / stride[axis]) % shape[axis]] = 1;
    });
    return [...found.keys()].filter((k) => found[k]);
  }

  _grow(box) {
    if (box[0] === box[1] || box[2] === box[3] || box[4] === box[5]) return;
    if (!this.box) { this.box = [...box]; return; }
    for (let n = 0; n < 6; n += 2) {
      if (box[n] < this.box[n]) this.box[n] = box[n];
      if (box[n + 1] > this.box[n + 1]) this.box[n + 1] = box[n + 1];
    }
  }

  _eachInBox(box, visit) {
    if (!box) return;
    for (let z = box[4]; z < box[5]; z++) {
      for (let y = box[2]; y < box[3]; y++) {
        const row = z * this.stride[2] + y * this.stride[1];
        for (let i = row + box[0]; i < row + box[1]; i++) visit(i);
      }
    }
  }
}
