// What the reader does: choose, slide, search, point, drag and press keys.
let waiting = false;

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
    canvas.dataset.redraw = state.drawn.toFixed(1);
  });
}

// Tell everything that depends on the choices, and draw.
function update() {
  const c = state.circuit;
  batches();
  const last = c.order[state.count - 1], own = c.subtasks.indexOf(c.subtask);
  by("nodes-said").textContent = last === undefined ? "none"
    : `${state.count} of ${c.units.length}, effect on ${c.subtask} from ${number(c.nodes.value[own][last], 2)} ${c.unit}`;
  const passed = c.carried.length ? c.carried[c.carried.length - 1] : 0;
  by("edges-said").textContent = !c.shown ? `none of ${c.edges.from.length}`
    : `${c.shown} of ${c.edges.from.length}, ${Math.round(100 * c.through / passed)} % of all that passes`;
  canvas.setAttribute("aria-label", `${c.name}, ${c.called}: ${state.count} units and ${c.shown} edges`);
  canvas.dataset.units = state.count;
  canvas.dataset.edges = c.shown;
  showFaithfulness();
  redraw();
}

function pick(n, move) {
  const c = state.circuit;
  if (n >= 0 && !visible(n)) {
    state.count = c.rank[n] + 1;
    by("nodes").value = state.count;
  }
  state.picked = n;
  if (n >= 0 && move) {
    const x = Math.abs(c.px[n] - state.x) * state.scale, y = Math.abs(c.py[n] - state.y) * state.scale;
    if (x > canvas.clientWidth / 2 - 20 || y > canvas.clientHeight / 2 - 10) [state.x, state.y] = [c.px[n], c.py[n]];
  }
  showPanel();
  showPrompts();
  update();
}

function chooseCircuit(i) {
  const kept = state.picked < 0 ? null : state.circuit.nodes.name[state.picked];
  const c = data.circuits[i];
  state.circuit = c;
  by("subtask").replaceChildren(...c.subtasks.map((name, s) => new Option(name, s)));
  if (c.subtasks.length > 1) by("subtask").append(new Option("all, by colour", -1));
  state.subtask = c.subtasks.indexOf(c.subtask);
  by("subtask").value = state.subtask;
  by("units").replaceChildren(...c.nodes.name.map((name) => new Option(name)));
  prepare();
  state.count = c.units.length;
  state.picked = c.nodes.name.indexOf(kept);
  by("nodes").max = Math.max(1, c.units.length);
  by("nodes").value = state.count;
  slideEdges(c.few ? c.carried[Math.min(c.few, c.flows.length) - 1] / c.carried[c.flows.length - 1] : 0); // those that matter
  fit();
  showTitle();
  showLegend();
  showPanel();
  showPrompts();
  update();
}

// The edge slider goes by what passes: the fewest edges whose strengths add up to a share of that of all.
function slideEdges(share) {
  const { flows, carried } = state.circuit, wanted = share * (carried[carried.length - 1] || 0) * (1 - 1e-9);
  by("edges").value = Math.round(share * 1000);
  const last = carried.findIndex((sum) => sum >= wanted);
  state.least = share <= 0 || !flows.length ? Infinity : flows[last];
}

function chooseSubtask(s) {
  state.subtask = s;
  const share = by("edges").value / 1000;
  prepare();
  slideEdges(share);
  showLegend();
  showPanel();
  update();
}

function search(text, complete) {
  const names = state.circuit.nodes.name, wanted = text.trim().toLowerCase();
  if (!wanted) return;
  let n = names.findIndex((name) => name.toLowerCase() === wanted);
  if (n < 0 && complete) n = names.findIndex((name) => name.toLowerCase().startsWith(wanted));
  by("search").setCustomValidity(n < 0 && complete ? "no such unit in this circuit" : "");
  if (n >= 0) pick(n, true);
  else if (complete) by("search").reportValidity();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const dx = x - canvas.clientWidth / 2, dy = y - canvas.clientHeight / 2, before = state.scale;
  state.scale = Math.min(20, Math.max(0.05, before * factor));
  state.x += dx / before - dx / state.scale;
  state.y += dy / before - dy / state.scale;
  state.moved = true;
  redraw();
}

// The next node in a direction: up and down within its column, left and right to the nearest beside it.
function step(sideways, down) {
  const c = state.circuit, { column } = c.nodes, all = c.nodes.name.map((_, n) => n).filter(visible);
  if (state.picked < 0) return pick(c.order.length ? c.order[0] : 0, true);
  const here = state.picked, y = (n) => c.py[n] - c.py[here];
  let next = [];
  if (down) next = all.filter((n) => column[n] === column[here] && y(n) * down > 0);
  else {
    const beyond = all.filter((n) => (column[n] - column[here]) * sideways > 0);
    const nearest = Math.min(...beyond.map((n) => Math.abs(column[n] - column[here])));
    next = beyond.filter((n) => Math.abs(column[n] - column[here]) === nearest);
  }
  next.sort((a, b) => Math.abs(y(a)) - Math.abs(y(b)) || a - b);
  if (next.length) pick(next[0], true);
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function hover(event) {
  const [x, y] = point(event), n = nodeAt(x, y), tip = by("tip"), c = state.circuit;
  if (n !== state.over) redraw();
  state.over = n;
  tip.hidden = n < 0;
  if (n < 0) return;
  const known = c.nodes.value.some((row) => row[n] !== null);
  tip.textContent = [c.nodes.name[n], ...(known ? c.subtasks.map((name, s) => `${name} ${interval(c.nodes, n, s)}`) : [])]
    .join("\n");
  tip.style.left = `${Math.min(x + 12, canvas.clientWidth - 200)}px`;
  tip.style.top = `${Math.min(y + 12, canvas.clientHeight - 80)}px`;
}

function listen() {
  let from = null, moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    from = point(event);
    moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return hover(event);
    const [x, y] = point(event);
    moved += Math.abs(x - from[0]) + Math.abs(y - from[1]);
    state.x -= (x - from[0]) / state.scale;
    state.y -= (y - from[1]) / state.scale;
    from = [x, y];
    state.moved = true;
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && moved < 4) pick(nodeAt(...point(event)), false);
    from = null;
  });
  canvas.addEventListener("pointercancel", () => { from = null; });
  canvas.addEventListener("pointerleave", () => { by("tip").hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...point(event));
  }, { passive: false });
  const keys = { ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1),
    ArrowDown: () => step(0, 1), Escape: () => pick(-1, false), "+": () => zoom(1.25), "-": () => zoom(0.8),
    0: () => { fit(); redraw(); }, "/": () => by("search").focus() };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  by("which").addEventListener("change", (event) => chooseCircuit(Number(event.target.value)));
  by("subtask").addEventListener("change", (event) => chooseSubtask(Number(event.target.value)));
  by("nodes").addEventListener("input", (event) => { state.count = Number(event.target.value); update(); });
  by("edges").addEventListener("input", (event) => { slideEdges(event.target.value / 1000); update(); });
  by("search").addEventListener("input", (event) => search(event.target.value, false));
  by("search").form.addEventListener("submit", (event) => {
    event.preventDefault();
    search(by("search").value, true);
  });
  by("closer").addEventListener("click", () => zoom(1.25));
  by("farther").addEventListener("click", () => zoom(0.8));
  by("fit").addEventListener("click", () => { fit(); redraw(); });
  new ResizeObserver(() => { if (!state.moved) fit(); showFaithfulness(); redraw(); }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); update(); });
}

// With #time in the address, redraws are timed to the last pixel: reading one back waits for all.
function time() {
  const took = [];
  slideEdges(1);
  update();
  for (let i = 0; i < 11; i++) {
    const begun = performance.now();
    state.x += 1;
    draw();
    canvas.getContext("2d").getImageData(0, 0, 1, 1);
    took.push(performance.now() - begun);
  }
  canvas.dataset.times = took.map((ms) => ms.toFixed(1)).join(" ");
}

for (const c of data.circuits) {
  unpack(c.nodes);
  unpack(c.edges);
}
by("circuit").hidden = false;
by("which").replaceChildren(...data.circuits.map((c, i) => new Option(c.name, i)));
readColours();
listen();
chooseCircuit(0);
if (location.hash === "#time") time();
addEventListener("hashchange", () => { if (location.hash === "#time") time(); });
