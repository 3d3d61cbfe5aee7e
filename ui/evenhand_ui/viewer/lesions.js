// The parts of one's own mask: how large each is, how long and wide, and where.
//
// A lesion is a connected part; voxels that touch at a face, an edge or a corner belong together, as
// in the audit. Its longest diameter lies in one slice of the large plane (RECIST measures so) and
// runs between the middles of outer voxel edges; the width is the longest chord at right angles to it.
// Of diameters that are equally long the one with the longer chord counts. The structured report is
// measured in the same way (`evenhand.metrics.lesion_sizes`).

import { MINE } from "./volume.js";

const SAME_MM = 1e-6; // lengths that differ by less are equal

export function findLesions(volume, plane, sizes, bit = MINE) {
  const found = [];
  for (const voxels of parts(volume, bit)) {
    found.push({ voxels: voxels.length, ...diameter(volume, plane, sizes, voxels) });
  }
  return found.sort((a, b) => b.voxels - a.voxels);
}

// Indices of the voxels of each connected part.
function parts(volume, bit) {
  const { mask, box, stride } = volume, all = [];
  if (!box) return all;
  const [x0, x1, y0, y1, z0, z1] = box, w = x1 - x0, h = y1 - y0, d = z1 - z0;
  const left = new Uint8Array(w * h * d);
  for (let z = 0, at = 0; z < d; z++) {
    for (let y = 0; y < h; y++) {
      const row = (z + z0) * stride[2] + (y + y0) * stride[1] + x0;
      for (let x = 0; x < w; x++) left[at++] = mask[row + x] & bit;
    }
  }
  for (let seed = 0; seed < left.length; seed++) {
    if (!left[seed]) continue;
    left[seed] = 0;
    const stack = [seed], voxels = [];
    while (stack.length) {
      const at = stack.pop();
      const z = Math.trunc(at / (w * h)), y = Math.trunc(at / w) % h, x = at % w;
      voxels.push((z + z0) * stride[2] + (y + y0) * stride[1] + x + x0);
      for (let c = Math.max(0, z - 1); c <= Math.min(d - 1, z + 1); c++) {
        for (let b = Math.max(0, y - 1); b <= Math.min(h - 1, y + 1); b++) {
          for (let a = Math.max(0, x - 1); a <= Math.min(w - 1, x + 1); a++) {
            const next = (c * h + b) * w + a;
            if (left[next]) { left[next] = 0; stack.push(next); }
          }
        }
      }
    }
    all.push(voxels);
  }
  return all;
}

// The slice with the longest diameter, its ends (positions along the plane's two axes, whole numbers
// being the middles of voxels), and how wide the part is there.
function diameter(volume, { across, down, through }, sizes, voxels) {
  const { stride, shape } = volume, slices = new Map();
  for (const i of voxels) {
    const place = (axis) => Math.trunc(i / stride[axis]) % shape[axis];
    const k = place(through), row = place(down), column = place(across);
    if (!slices.has(k)) slices.set(k, new Map());
    const rows = slices.get(k), span = rows.get(row);
    if (!span) rows.set(row, [column, column]);
    else if (column < span[0]) span[0] = column;
    else if (column > span[1]) span[1] = column;
  }
  let best = { length: -1, width: -1 };
  for (const [slice, rows] of slices) {
    const outline = hull(edges(rows).map(([c, r]) => [c * sizes[across], r * sizes[down]]));
    const found = farthest(outline);
    if (before(found, best)) best = { ...found, slice };
  }
  const back = ([x, y]) => [x / sizes[across], y / sizes[down]];
  return { slice: best.slice, length: best.length, width: best.width, ends: best.ends.map(back) };
}

// The middles of the outer edges of the first and last voxel of each row.
function edges(rows) {
  const points = [];
  for (const [row, [first, last]] of rows) {
    points.push([first - 0.5, row], [last + 0.5, row]);
    for (const c of [first, last]) points.push([c, row - 0.5], [c, row + 0.5]);
  }
  return points;
}

// Convex hull (Andrew's monotone chain).
function hull(points) {
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turn = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const half = (list) => {
    const chain = [];
    for (const p of list) {
      while (chain.length > 1 && turn(chain.at(-2), chain.at(-1), p) <= 0) chain.pop();
      chain.push(p);
    }
    return chain.slice(0, -1);
  };
  return [...half(points), ...half([...points].reverse())];
}

// Whether a diameter is longer than another or, where both are equally long, wider.
function before(one, other) {
  if (Math.abs(one.length - other.length) > SAME_MM) return one.length > other.length;
  return one.width > other.width;
}

function farthest(outline) {
  let best = { length: -1, width: -1 };
  outline.forEach((a, n) => {
    for (const b of outline.slice(n + 1)) {
      const length = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (length < best.length - SAME_MM) continue;
      const found = { length, width: chord(outline, [a, b]), ends: [a, b] };
      if (before(found, best)) best = found;
    }
  });
  return best;
}

// The longest chord at right angles to a line. It changes evenly between corners, so one of them has it.
function chord(outline, [a, b]) {
  const length = Math.hypot(b[0] - a[0], b[1] - a[1]);
  const [ux, uy] = [(b[0] - a[0]) / length, (b[1] - a[1]) / length];
  const turned = outline.map(([x, y]) => [x * ux + y * uy, y * ux - x * uy]);
  let best = 0;
  for (const [at] of turned) {
    let low = Infinity, high = -Infinity;
    turned.forEach(([u0, v0], n) => {
      const [u1, v1] = turned[(n + 1) % turned.length];
      if (Math.min(u0, u1) > at || Math.max(u0, u1) < at) return;
      const ends = u0 === u1 ? [v0, v1] : [v0 + ((at - u0) / (u1 - u0)) * (v1 - v0)];
      for (const v of ends) [low, high] = [Math.min(low, v), Math.max(high, v)];
    });
    if (high - low > best) best = high - low;
  }
  return best;
}
