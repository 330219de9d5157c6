// What is shown of a circuit, where it stands, and drawing it. Nothing here listens to anything.
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const state = { circuit: null, subtask: 0, count: 0, least: 0, picked: -1, over: -1, x: 0, y: 0, scale: 1,
  prompt: -1, at: 0 };
const canvas = by("canvas");
const WIDE = 190, MARGIN = 26, SMALL = 3, LARGE = 12, THIN = 0.4, THICK = 6, STEPS = 8;
const BENT = 1500, CROWDED = 0.4; // more edges than this are straight and thin, which is five times as fast

// The page's colours, light or dark; read once, because asking for each of 5,000 edges takes longer than drawing them.
const inks = {};
function readColours() {
  const found = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "soft", "needed", "harmful", "mark", "plain", "fill", "line", "high", "low"]) {
    inks[name] = found.getPropertyValue(`--${name}`).trim();
  }
}

// The number with two or three figures, and all those before the point.
function number(value, figures = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const digits = Math.max(0, Math.min(6, figures - 1 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(digits).replace("-", "−");
}

function interval(one, i, subtask) {
  const [value, low, high] = [one.value, one.low, one.high].map((rows) => rows[subtask][i]);
  return low === null || high === null ? number(value) : `${number(value)} [${number(low, 2)}, ${number(high, 2)}]`;
}

// What belongs to a name; names are text from outside, such as "constructor".
const of = (found, name) => (Object.hasOwn(found, name) ? found[name] : undefined);

// The subtask whose effect a node or edge shows: the chosen one, or the one that needs it most.
function strongest(one, i) {
  if (state.subtask >= 0) return state.subtask;
  let best = 0;
  one.value.forEach((row, s) => { if (Math.abs(row[i] || 0) > Math.abs(one.value[best][i] || 0)) best = s; });
  return best;
}

const isUnit = (c, n) => c.nodes.kind[n] !== "input" && c.nodes.kind[n] !== "output";

// Effects travel as whole numbers of a unit, with the half-width of their interval where it is symmetric.
function unpack(one) {
  const map = (rows, f) => rows.map((row, s) => row.map((v, i) => (v === null ? null : f(v, s, i))));
  const { unit, value, half } = one;
  if (half) {
    one.low = map(half, (h, s, i) => (value[s][i] - h) * unit);
    one.high = map(half, (h, s, i) => (value[s][i] + h) * unit);
  } else for (const end of ["low", "high"]) one[end] = map(one[end], (v) => v * unit);
  one.value = map(value, (v) => v * unit);
}

// What never changes for a circuit and a choice of subtask: order, sizes, colours, batches of edges.
function prepare() {
  const c = state.circuit, nodes = c.nodes, edges = c.edges;
  const own = nodes.value[c.subtasks.indexOf(c.subtask)];
  c.units = nodes.name.map((_, n) => n).filter((n) => isUnit(c, n));
  c.order = [...c.units].sort((a, b) => (own[b] || 0) - (own[a] || 0) || a - b);
  c.rank = [];
  c.order.forEach((n, place) => { c.rank[n] = place; });
  c.px = nodes.x.map((x) => x * WIDE);
  c.lanes = lanesOf(c);
  c.peaks = peaksOf(c);
  let most = 0;
  for (const n of c.units) for (const row of nodes.value) most = Math.max(most, Math.abs(row[n] || 0));
  c.size = nodes.name.map((_, n) => {
    const share = Math.min(1, Math.abs(nodes.value[strongest(nodes, n)][n] || 0) / (most || 1));
    return isUnit(c, n) ? SMALL + (LARGE - SMALL) * Math.sqrt(share) : 7;
  });
  c.flow = edges.from.map((_, e) => edges.value[strongest(edges, e)][e] || 0);
  // What edges are drawn by, the strongest first: the score of wires, on examples that they are not stated on.
  const scored = edges.score && state.subtask === c.subtasks.indexOf(c.subtask);
  c.strength = scored ? edges.score.map((v) => Math.max(0, v || 0)) : c.flow.map(Math.abs);
  c.flows = c.strength.filter((v) => v > 0).sort((a, b) => b - a);
  let sum = 0;
  c.carried = c.flows.map((v) => (sum += v));
}

function look(one, i) {
  const s = strongest(one, i), value = one.value[s][i];
  const faint = one.low[s][i] !== null && one.low[s][i] <= 0 && one.high[s][i] >= 0;
  const c = state.circuit;
  if (value === null) return { colour: inks.plain, faint: false };
  return { colour: state.subtask < 0 ? c.colours[s] : value >= 0 ? inks.needed : inks.harmful, faint };
}

// A node's colour: its effect, as faint as its interval and the runs without it make it; or, on a prompt, what it does there.
function lookOf(n) {
  const done = state.prompt < 0 ? null : doneOn(n);
  if (done) return { colour: done.value >= 0 ? inks.high : inks.low, alpha: 0.06 + 0.94 * done.share };
  const { colour, faint } = look(state.circuit.nodes, n), share = state.circuit.nodes.share;
  return { colour, alpha: (faint ? 0.3 : 1) * (share && share[n] !== null ? share[n] : 1) };
}

const visible = (n) => !isUnit(state.circuit, n) || state.circuit.rank[n] < state.count;

// Edges of the same look are drawn one after the other, the strongest last. One path of them all would be slower:
// its crossings have to be found.
function batches() {
  const c = state.circuit, { from, to } = c.edges, found = new Map();
  const most = Math.max(...c.flow.map(Math.abs), 0) || 1;
  let shown = 0, through = 0;
  for (let e = 0; e < from.length; e++) {
    const size = Math.abs(c.flow[e]), strength = c.strength[e];
    if (!strength || strength < state.least || !visible(from[e]) || !visible(to[e])) continue;
    shown++;
    through += strength;
    const near = state.picked < 0 || from[e] === state.picked || to[e] === state.picked;
    const width = Math.round(STEPS * Math.sqrt(size / most)), { colour: ink, faint } = look(c.edges, e);
    const key = `${near ? 1 : 0} ${String(width).padStart(2, "0")} ${faint ? 0 : 1} ${ink}`;
    if (!found.has(key)) found.set(key, { near, width, faint, ink, edges: [] });
    found.get(key).edges.push(e);
  }
  c.shown = shown;
  c.through = through;
  c.batches = [...found.entries()].sort((a, b) => (a[0] < b[0] ? -1 : 1)).map((pair) => pair[1]);
}

function draw() {
  const begun = performance.now(), c = state.circuit, pen = canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1, k = state.scale, w = canvas.clientWidth, h = canvas.clientHeight;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, w, h);
  const sx = (n) => (c.px[n] - state.x) * k + w / 2, sy = (n) => (c.py[n] - state.y) * k + h / 2;
  drawLanes(pen, (x) => (x - state.x) * k + w / 2, w, h);
  for (const batch of c.batches) {
    pen.strokeStyle = batch.ink;
    const crowd = c.shown > BENT ? CROWDED : 1;
    pen.lineWidth = (THIN + (THICK - THIN) * batch.width / STEPS) * crowd * swell();
    pen.globalAlpha = (batch.faint ? 0.13 : 0.5) * (state.picked < 0 ? 1 : batch.near ? 1.8 : 0.15)
      * (state.prompt < 0 ? 1 : 0.5);
    for (const e of batch.edges) {
      const a = c.edges.from[e], b = c.edges.to[e], x0 = sx(a), x1 = sx(b), y0 = sy(a), y1 = sy(b);
      const bend = 0.45 * (x1 - x0);
      pen.beginPath();
      pen.moveTo(x0, y0);
      if (c.shown > BENT) pen.lineTo(x1, y1);
      else pen.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
      pen.stroke();
    }
  }
  const near = new Set([state.picked]);
  c.edges.from.forEach((a, e) => {
    if (a === state.picked) near.add(c.edges.to[e]);
    if (c.edges.to[e] === state.picked) near.add(a);
  });
  const nodes = c.nodes.name.map((_, n) => n).filter(visible).sort((a, b) => c.size[b] - c.size[a] || a - b);
  for (const n of nodes) drawNode(pen, n, sx(n), sy(n), c.size[n] * swell(), near);
  pen.globalAlpha = 1;
  drawNames(pen, nodes, sx, sy);
  state.drawn = performance.now() - begun;
}

function outline(pen, kind, x, y, r) {
  pen.beginPath();
  if (kind === "head" || kind === "mlp") pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
  else if (kind === "input") { pen.moveTo(x - r, y - r); pen.lineTo(x + r, y); pen.lineTo(x - r, y + r); }
  else if (kind === "output") { pen.moveTo(x - r, y); pen.lineTo(x, y - r); pen.lineTo(x + r, y); pen.lineTo(x, y + r); }
  else pen.arc(x, y, r, 0, 7);
  pen.closePath();
}

function drawNode(pen, n, x, y, r, near) {
  const { colour: fill, alpha } = lookOf(n);
  outline(pen, state.circuit.nodes.kind[n], x, y, r);
  pen.globalAlpha = 1;
  pen.fillStyle = inks.paper;
  pen.fill();
  pen.globalAlpha = alpha * (state.picked < 0 || near.has(n) ? 1 : 0.35);
  pen.fillStyle = fill;
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = n === state.picked ? 3 : 1;
  pen.strokeStyle = n === state.picked || n === state.over ? inks.mark : state.prompt < 0 ? inks.paper : inks.soft;
  pen.stroke();
}

// Names where they have room: the largest first, on the right or else on the left.
function drawNames(pen, nodes, sx, sy) {
  const c = state.circuit, taken = [], size = 11;
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const order = [...nodes].sort((a, b) => (b === state.picked) - (a === state.picked) || isUnit(c, a) - isUnit(c, b));
  for (const n of order) {
    const text = c.nodes.name[n], wide = pen.measureText(text).width, gap = c.size[n] * swell() + 4;
    for (const side of c.nodes.kind[n] === "input" ? [-1] : [1, -1]) {
      const x = side > 0 ? sx(n) + gap : sx(n) - gap - wide, y = sy(n);
      if (taken.some((t) => x < t[2] && x + wide > t[0] && y - 6 < t[3] && y + 6 > t[1])) continue;
      if (nodes.some((m) => m !== n && sx(m) > x - 3 && sx(m) < x + wide + 3 && Math.abs(sy(m) - y) < 4 + c.size[m] * swell())) continue;
      taken.push([x, y - 6, x + wide, y + 6]);
      pen.globalAlpha = 0.7;
      pen.fillStyle = inks.paper;
      pen.fillRect(x - 1, y - 6, wide + 2, 12);
      pen.globalAlpha = 1;
      pen.fillStyle = inks.ink;
      pen.fillText(text, x, y);
      break;
    }
  }
}

// The whole circuit, as large as it goes: heights follow from the shape of the canvas.
function fit() {
  const c = state.circuit, left = Math.min(...c.px), right = Math.max(...c.px);
  const w = canvas.clientWidth, h = canvas.clientHeight;
  state.scale = state.fitted = Math.max(0.02, (w - 150) / Math.max(WIDE, right - left));
  c.height = Math.max(100, h - 2 * MARGIN) / state.scale;
  c.py = c.nodes.y.map((y) => (1 - y) * c.height);
  state.x = (left + right) / 2;
  state.y = c.height / 2;
  state.moved = false;
}

// How much larger markers are drawn: zooming in enlarges them, but slowly.
const swell = () => Math.min(2, Math.max(0.6, Math.sqrt(state.scale / state.fitted)));

function nodeAt(x, y) {
  const c = state.circuit, k = state.scale;
  let best = -1, nearest = 14;
  c.nodes.name.forEach((_, n) => {
    if (!visible(n)) return;
    const dx = (c.px[n] - state.x) * k + canvas.clientWidth / 2 - x;
    const dy = (c.py[n] - state.y) * k + canvas.clientHeight / 2 - y, far = Math.hypot(dx, dy);
    if (far < nearest) [best, nearest] = [n, far];
  });
  return best;
}
