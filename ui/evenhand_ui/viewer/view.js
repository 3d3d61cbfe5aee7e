// One plane on the screen: grey picture, masks, letters, crosshair.

import { drawMarks, drawPen } from "./marks.js";
import { MINE, PROPOSED, SUGGESTED } from "./volume.js";

// Told apart by those who do not see all colours (Okabe and Ito), and by their lines as well.
export const COLOURS = {
  [PROPOSED]: [230, 159, 0], [MINE]: [86, 180, 233], [SUGGESTED]: [240, 228, 66],
};

const FIT = 0.98;

export class View {
  constructor(key, plane, volume) {
    this.key = key;
    this.plane = plane;
    this.volume = volume;
    this.slice = Math.floor(volume.shape[plane.through] / 2);
    this.zoom = 1;
    this.pan = [0, 0];
    this.size = [1, 1];
    const { width, height } = volume.walk(plane, 0);
    this.columns = width;
    this.rows = height;
    this.pixelMm = [volume.spacing[plane.across], volume.spacing[plane.down]];
    this.element = this._build();
    this.sheet = sheetOf(width, height);
    this.warm = sheetOf(width, height);
    this.paint = Object.fromEntries(
      [MINE, PROPOSED, SUGGESTED].map((bit) => [bit, sheetOf(width, height)]));
    this.drawn = {};
  }

  _build() {
    const element = document.createElement("div");
    element.className = "plane";
    element.dataset.plane = this.key;
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    element.append(this.canvas);
    const [low, high] = [0, 1];
    const { across, down } = this.plane, { letters } = this.volume;
    // Every axis runs against the screen.
    const places = {
      left: letters[across][high], right: letters[across][low],
      top: letters[down][high], bottom: letters[down][low],
    };
    for (const [place, letter] of Object.entries(places)) {
      const span = document.createElement("span");
      span.className = `letter ${place}`;
      span.textContent = letter;
      element.append(span);
    }
    this.caption = document.createElement("span");
    this.caption.className = "caption";
    element.append(this.caption);
    return element;
  }

  get depth() { return this.volume.shape[this.plane.through]; }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    this.size = [Math.max(1, box.width), Math.max(1, box.height)];
    const [w, h] = this.size.map((side) => Math.round(side * ratio));
    if (this.canvas.width !== w || this.canvas.height !== h) {
      this.canvas.width = w;
      this.canvas.height = h;
    }
    this.ratio = ratio;
  }

  // Where the picture lies: the corner, and pixels of the screen for one pixel of the slice.
  frame() {
    const [w, h] = this.size, [mx, my] = this.pixelMm;
    const scale = Math.min(w / (this.columns * mx), h / (this.rows * my)) * FIT * this.zoom;
    const [sx, sy] = [mx * scale, my * scale];
    const left = (w - this.columns * sx) / 2 + this.pan[0];
    const top = (h - this.rows * sy) / 2 + this.pan[1];
    return { left, top, sx, sy };
  }

  // From a pointer to columns and rows (fractions: 0.5 is the middle of the first pixel).
  locate(event) {
    const box = this.canvas.getBoundingClientRect();
    const { left, top, sx, sy } = this.frame();
    return [(event.clientX - box.left - left) / sx, (event.clientY - box.top - top) / sy];
  }

  // The other way round: where a place lies in the window.
  onScreen([column, row]) {
    const box = this.canvas.getBoundingClientRect(), { left, top, sx, sy } = this.frame();
    return [box.left + left + column * sx, box.top + top + row * sy];
  }

  voxelAt([column, row]) {
    const { start, stepAcross, stepDown } = this.volume.walk(this.plane, this.slice);
    const c = Math.floor(column), r = Math.floor(row);
    if (c < 0 || r < 0 || c >= this.columns || r >= this.rows) return -1;
    return start + c * stepAcross + r * stepDown;
  }

  zoomAt(event, factor) {
    const before = this.locate(event);
    this.zoom = Math.min(40, Math.max(0.5, this.zoom * factor));
    const after = this.locate(event), { sx, sy } = this.frame();
    this.pan[0] += (after[0] - before[0]) * sx;
    this.pan[1] += (after[1] - before[1]) * sy;
  }

  reset() {
    this.zoom = 1;
    this.pan = [0, 0];
  }

  // `look`: grey (table), greyVersion, layers [{bit, style, opacity, width}], cross, heat, marks, pen.
  draw(look) {
    const context = this.canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, ...this.size);
    const frame = this.frame();
    const spread = [frame.left, frame.top, this.columns * frame.sx, this.rows * frame.sy];
    this._drawGrey(look);
    context.imageSmoothingEnabled = look.smooth;
    context.drawImage(this.sheet.canvas, ...spread);
    context.imageSmoothingEnabled = false;
    if (look.heat) context.drawImage(this._heated(look.heat), ...spread);
    for (const layer of look.layers) this._drawLayer(context, layer, frame, spread);
    if (look.cross) this._drawCross(context, look.cross, frame);
    if (look.marks) drawMarks(context, look.marks, frame);
    if (look.pen) drawPen(context, look.pen, frame, this.pixelMm);
  }

  _drawGrey(look) {
    const stamp = `${this.slice}/${look.greyVersion}`;
    if (this.drawn.grey === stamp) return;
    this.drawn.grey = stamp;
    const { image } = this.volume, { grey } = look, out = this.sheet.words;
    const { start, stepAcross, stepDown, width, height } =
      this.volume.walk(this.plane, this.slice);
    for (let r = 0, at = 0; r < height; r++) {
      for (let c = 0, i = start + r * stepDown; c < width; c++, i += stepAcross) {
        out[at++] = grey[image[i] + 32768];
      }
    }
    this.sheet.context.putImageData(this.sheet.pixels, 0, 0);
  }

  _heated(heat) {
    if (this.drawn.heat !== this.slice) {
      this.drawn.heat = this.slice;
      heat.write(this.warm.words, this.volume, this.plane, this.slice);
      this.warm.context.putImageData(this.warm.pixels, 0, 0);
    }
    return this.warm.canvas;
  }

  _drawLayer(context, { bit, style, opacity, width, dashed }, frame, spread) {
    const painted = this._paint(bit);
    const [red, green, blue] = COLOURS[bit];
    if (style === "fill") {
      context.globalAlpha = opacity;
      context.drawImage(painted.canvas, ...spread);
      context.globalAlpha = 1;
      return;
    }
    context.strokeStyle = `rgba(${red},${green},${blue},${opacity})`;
    context.lineWidth = width;
    context.beginPath();
    const { left, top, sx, sy } = frame, { edges } = painted;
    if (dashed) context.setLineDash([0.55 * sx, 0.45 * sx]);
    for (let n = 0; n < edges.length; n += 4) {
      context.moveTo(left + edges[n] * sx, top + edges[n + 1] * sy);
      context.lineTo(left + edges[n + 2] * sx, top + edges[n + 3] * sy);
    }
    context.stroke();
    context.setLineDash([]);
  }

  // The mask of this slice, as a coloured sheet and as the edges around it.
  _paint(bit) {
    const paint = this.paint[bit], stamp = `${this.slice}/${this.volume.version}`;
    if (paint.stamp === stamp) return paint;
    paint.stamp = stamp;
    paint.edges = [];
    const [red, green, blue] = COLOURS[bit];
    const colour = (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
    const { mask } = this.volume;
    const { start, stepAcross, stepDown, width, height } =
      this.volume.walk(this.plane, this.slice);
    paint.words.fill(0);
    for (let r = 0, at = 0; r < height; r++) {
      for (let c = 0, i = start + r * stepDown; c < width; c++, at++, i += stepAcross) {
        if (!(mask[i] & bit)) continue;
        paint.words[at] = colour;
        if (c === 0 || !(mask[i - stepAcross] & bit)) paint.edges.push(c, r, c, r + 1);
        if (c === width - 1 || !(mask[i + stepAcross] & bit)) {
          paint.edges.push(c + 1, r, c + 1, r + 1);
        }
        if (r === 0 || !(mask[i - stepDown] & bit)) paint.edges.push(c, r, c + 1, r);
        if (r === height - 1 || !(mask[i + stepDown] & bit)) {
          paint.edges.push(c, r + 1, c + 1, r + 1);
        }
      }
    }
    paint.context.putImageData(paint.pixels, 0, 0);
    return paint;
  }

  _drawCross(context, position, { left, top, sx, sy }) {
    const { across, down } = this.plane;
    const x = left + (this.columns - position[across] - 0.5) * sx;
    const y = top + (this.rows - position[down] - 0.5) * sy;
    const gap = 14, [w, h] = this.size;
    context.strokeStyle = "rgba(170,220,170,0.55)";
    context.lineWidth = 1;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [
      [x, 0, x, y - gap], [x, y + gap, x, h], [0, y, x - gap, y], [x + gap, y, w, y],
    ]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
  }
}

function sheetOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  return { canvas, context, pixels, words: new Uint32Array(pixels.data.buffer), edges: [] };
}
