// Where the model is not sure: a heat map over the picture. Dark to bright, so that the order is seen
// without colours too; what is sure stays clear.

const STOPS = [
  [0, 60, 15, 110, 0], [0.2, 87, 16, 110, 0.35], [0.5, 188, 55, 84, 0.55],
  [0.75, 249, 142, 9, 0.7], [1, 252, 255, 164, 0.85],
];

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  const share = n / 255, last = STOPS.findIndex(([at]) => at >= share) || 1;
  const [low, high] = [STOPS[last - 1], STOPS[last]];
  const part = (share - low[0]) / (high[0] - low[0]);
  const [r, g, b, a] = [1, 2, 3, 4].map((i) => low[i] + part * (high[i] - low[i]));
  return ((Math.round(a * 255) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8)
    | Math.round(r)) >>> 0;
});

export class Heat {
  // The voxels of a box (x fastest): 0 is sure, 255 is as unsure as can be.
  constructor({ bytes, box }) {
    this.bytes = bytes;
    this.box = box;
  }

  // Write one slice of a plane as opaque words, a row of the picture after the other.
  write(words, volume, plane, slice) {
    words.fill(0);
    const { box, bytes } = this, { across, down, through } = plane;
    const low = [box[0], box[2], box[4]], size = [box[1] - box[0], box[3] - box[2], box[5] - box[4]];
    const stride = [1, size[0], size[0] * size[1]];
    if (slice < low[through] || slice >= low[through] + size[through]) return;
    const width = volume.shape[across], height = volume.shape[down];
    const plate = (slice - low[through]) * stride[through];
    for (let d = 0; d < size[down]; d++) {
      const row = (height - 1 - low[down] - d) * width;
      for (let a = 0; a < size[across]; a++) {
        const value = bytes[plate + d * stride[down] + a * stride[across]];
        if (value) words[row + width - 1 - low[across] - a] = TABLE[value];
      }
    }
  }
}
