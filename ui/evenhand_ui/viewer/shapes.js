// What tools draw, on one slice: plain functions over pixels (columns, rows), no state.

// Pixels whose centre lies in a disc around a point; sizes in mm.
export function disc(column, row, radius, [across, down], visit) {
  const rows = Math.ceil(radius / down), columns = Math.ceil(radius / across);
  const [c0, r0] = [Math.floor(column), Math.floor(row)];
  let any = false;
  for (let r = r0 - rows; r <= r0 + rows; r++) {
    for (let c = c0 - columns; c <= c0 + columns; c++) {
      const x = (c + 0.5 - column) * across, y = (r + 0.5 - row) * down;
      if (x * x + y * y <= radius * radius) { any = true; visit(c, r); }
    }
  }
  if (!any) visit(c0, r0);
}

// Points along a line, close enough that discs of this radius leave no gap.
export function* along([x0, y0], [x1, y1], radius, [across, down]) {
  const length = Math.hypot((x1 - x0) * across, (y1 - y0) * down);
  const steps = Math.max(1, Math.ceil(length / Math.max(radius / 2, Math.min(across, down) / 2)));
  for (let n = 1; n <= steps; n++) {
    yield [x0 + ((x1 - x0) * n) / steps, y0 + ((y1 - y0) * n) / steps];
  }
}

// Pixels whose centre lies inside a polygon (even-odd).
export function polygon(points, width, height, visit) {
  const ys = points.map((p) => p[1]);
  const first = Math.max(0, Math.floor(Math.min(...ys)));
  const last = Math.min(height - 1, Math.ceil(Math.max(...ys)));
  for (let r = first; r <= last; r++) {
    const y = r + 0.5, cuts = [];
    points.forEach(([x0, y0], n) => {
      const [x1, y1] = points[(n + 1) % points.length];
      if ((y0 <= y) !== (y1 <= y)) cuts.push(x0 + ((y - y0) / (y1 - y0)) * (x1 - x0));
    });
    cuts.sort((a, b) => a - b);
    for (let n = 0; n + 1 < cuts.length; n += 2) {
      const from = Math.max(0, Math.ceil(cuts[n] - 0.5));
      const to = Math.min(width - 1, Math.ceil(cuts[n + 1] - 0.5) - 1);
      for (let c = from; c <= to; c++) visit(c, r);
    }
  }
}

// Pixels around a point that are enclosed by a mask; null where they reach the border.
export function enclosed(mask, width, height, column, row) {
  const start = row * width + column;
  if (mask[start]) return [];
  const seen = new Uint8Array(mask.length), stack = [start], found = [];
  seen[start] = 1;
  while (stack.length) {
    const at = stack.pop(), c = at % width, r = (at - c) / width;
    if (c === 0 || r === 0 || c === width - 1 || r === height - 1) return null;
    found.push(at);
    for (const next of [at - 1, at + 1, at - width, at + width]) {
      if (!seen[next] && !mask[next]) { seen[next] = 1; stack.push(next); }
    }
  }
  return found;
}

// Squared distance of each pixel to the nearest that is set (Felzenszwalb and Huttenlocher, 2012).
function squaredDistance(mask, width, height, [across, down]) {
  const far = 1e20, d = Float64Array.from(mask, (m) => (m ? 0 : far));
  const pass = (start, step, count, size) => {
    const f = new Float64Array(count), v = new Int32Array(count), z = new Float64Array(count + 1);
    for (let q = 0; q < count; q++) f[q] = d[start + q * step];
    let k = 0;
    v[0] = 0; z[0] = -Infinity; z[1] = Infinity;
    for (let q = 1; q < count; q++) {
      const meet = () =>
        (f[q] + (q * size) ** 2 - f[v[k]] - (v[k] * size) ** 2) / (2 * size * (q - v[k]));
      let s = meet();
      while (s <= z[k]) { k--; s = meet(); }
      k++;
      v[k] = q; z[k] = s; z[k + 1] = Infinity;
    }
    k = 0;
    for (let q = 0; q < count; q++) {
      while (z[k + 1] < q * size) k++;
      d[start + q * step] = ((q - v[k]) * size) ** 2 + f[v[k]];
    }
  };
  for (let c = 0; c < width; c++) pass(c, width, height, down);
  for (let r = 0; r < height; r++) pass(r * width, 1, width, across);
  return d;
}

function signedDistance(mask, width, height, spacing) {
  const outside = squaredDistance(mask, width, height, spacing);
  const inside = squaredDistance(mask.map((m) => (m ? 0 : 1)), width, height, spacing);
  return outside.map((d, n) => Math.sqrt(d) - Math.sqrt(inside[n]));
}

// The mask of a slice between two drawn ones, `share` of the way from the first to the second.
export function between(first, second, width, height, spacing) {
  const a = signedDistance(first, width, height, spacing);
  const b = signedDistance(second, width, height, spacing);
  return (share) => a.map((d, n) => ((1 - share) * d + share * b[n] < 0 ? 1 : 0));
}
