// What lies on top of picture and masks: the brush, lines, and what the model was asked.

// The brush under the pointer, the corners of a polygon so far, or a measured length.
export function drawPen(context, pen, { left, top, sx, sy }, [mx]) {
  context.strokeStyle = "#fff";
  context.lineWidth = 1.5;
  context.beginPath();
  const corners = pen.points ?? pen.line;
  if (pen.rect) {
    context.strokeRect(...across(pen.rect, { left, top, sx, sy }));
    return;
  }
  if (corners) {
    const places = corners.map(([c, r]) => [left + c * sx, top + r * sy]);
    places.forEach(([x, y], n) => context[n ? "lineTo" : "moveTo"](x, y));
    for (const [x, y] of places) context.rect(x - 2, y - 2, 4, 4);
    if (pen.text) {
      const [x, y] = places[1];
      context.font = "600 14px system-ui, sans-serif";
      context.lineJoin = "round";
      context.stroke();
      context.beginPath();
      context.fillStyle = "#ffe9a8";
      context.fillText(pen.text, x + 8, y - 6);
    }
  } else {
    const [c, r] = pen.at;
    context.arc(left + c * sx, top + r * sy, Math.max(1.5, (pen.radius / mx) * sx), 0, 7);
  }
  context.stroke();
}

// The box and the points of a prompt. Inside is a filled dot, outside a cross.
// `line`: a diameter; `cursor`: where the keyboard draws.
export function drawMarks(context, { prompt, line, cursor }, frame) {
  const { left, top, sx, sy } = frame;
  const place = ([c, r]) => [left + c * sx, top + r * sy];
  if (prompt) drawPrompt(context, prompt, frame);
  if (line) drawLine(context, line.ends.map(place), line.text);
  if (cursor) drawCursor(context, place(cursor.at), cursor.down);
}

function drawCursor(context, [x, y], down) {
  for (const [colour, width] of [["#000", 4], [down ? "#ffd75e" : "#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    context.stroke();
  }
}

function drawLine(context, [[x0, y0], [x1, y1]], text) {
  context.strokeStyle = "#fff";
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  for (const [x, y] of [[x0, y0], [x1, y1]]) context.rect(x - 2, y - 2, 4, 4);
  context.stroke();
  context.font = "600 14px system-ui, sans-serif";
  context.fillStyle = "#ffe9a8";
  context.fillText(text, Math.max(x0, x1) + 8, Math.min(y0, y1) - 6);
}

function drawPrompt(context, { rect, dots }, frame) {
  const { left, top, sx, sy } = frame;
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineWidth = 1.5;
  if (rect) context.strokeRect(...across(rect, frame));
  for (const { at: [c, r], inside } of dots) {
    const x = left + c * sx, y = top + r * sy;
    context.beginPath();
    if (inside) context.arc(x, y, 4, 0, 7);
    else for (const d of [-1, 1]) { context.moveTo(x - 5, y - 5 * d); context.lineTo(x + 5, y + 5 * d); }
    context[inside ? "fill" : "stroke"]();
  }
}

function across([[c0, r0], [c1, r1]], { left, top, sx, sy }) {
  return [left + c0 * sx, top + r0 * sy, (c1 - c0) * sx, (r1 - r0) * sy];
}
