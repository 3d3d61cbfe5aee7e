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
export function drawMarks(context, { rect, dots }, frame) {
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
