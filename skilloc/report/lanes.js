// Layers as lanes, and the residual stream that runs through them. They stand behind everything else.
function lanesOf(c) {
  const found = new Map(), half = WIDE / 2;
  for (const n of c.units) {
    const layer = c.nodes.layer[n], x = c.px[n];
    if (layer < 0) continue;
    const lane = found.get(layer) || { layer, left: Infinity, right: -Infinity };
    lane.left = Math.min(lane.left, x - half);
    lane.right = Math.max(lane.right, x + half);
    found.set(layer, lane);
  }
  const lanes = [...found.values()].sort((a, b) => a.left - b.left);
  // Where columns are staggered two lanes would overlap: they meet in the middle.
  lanes.slice(1).forEach((lane, i) => {
    if (lane.left < lanes[i].right) lane.left = lanes[i].right = (lane.left + lanes[i].right) / 2;
  });
  return lanes;
}

function drawLanes(pen, sx, w, h) {
  const lanes = state.circuit.lanes;
  if (!lanes.length) return;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  lanes.forEach((lane, i) => {
    const left = sx(lane.left), wide = sx(lane.right) - left;
    pen.fillStyle = inks.fill;
    if (i % 2 === 0) pen.fillRect(left, 0, wide, h);
    pen.fillStyle = inks.soft;
    const text = [`layer ${lane.layer}`, String(lane.layer)].find((one) => pen.measureText(one).width < wide - 4);
    if (text) pen.fillText(text, left + (wide - pen.measureText(text).width) / 2, 10);
  });
  if (state.circuit.stream) drawStream(pen, sx(lanes[0].left), sx(lanes[lanes.length - 1].right), h - 10);
}

function drawStream(pen, left, right, y) {
  const text = "residual stream", wide = pen.measureText(text).width;
  pen.strokeStyle = pen.fillStyle = inks.soft;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(left, y);
  pen.lineTo(right - 6, y);
  pen.stroke();
  pen.beginPath();
  pen.moveTo(right, y);
  pen.lineTo(right - 8, y - 4);
  pen.lineTo(right - 8, y + 4);
  pen.fill();
  pen.fillStyle = inks.paper;
  pen.fillRect(left + 12, y - 7, wide + 8, 14);
  pen.fillStyle = inks.soft;
  pen.fillText(text, left + 16, y);
}
