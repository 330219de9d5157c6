// What is said about one unit, and about the whole circuit. Text from outside only ever becomes text.
function element(kind, text, ...inside) {
  const made = document.createElement(kind);
  if (text !== null && text !== undefined) made.textContent = text;
  made.append(...inside);
  return made;
}

// The circuit's name: what its units may be called, and why.
function showTitle() {
  by("called").textContent = `${state.circuit.name}: ${state.circuit.called}`;
  by("said").textContent = state.circuit.said;
}

function showPanel() {
  const panel = by("panel"), n = state.picked;
  panel.replaceChildren();
  panel.dataset.unit = n < 0 ? "" : state.circuit.nodes.name[n];
  if (n < 0) {
    panel.append(element("p", "Click a unit, or find it by name, to see what needs it, what excites it and what it feeds."));
    return;
  }
  const c = state.circuit, nodes = c.nodes;
  panel.append(element("h2", nodes.name[n]));
  const place = nodes.hook[n] ? `, ${nodes.hook[n]}` : "";
  panel.append(element("p", isUnit(c, n) ? `${nodes.kind[n]} of layer ${nodes.layer[n]}${place}` : nodes.kind[n]));
  if (nodes.value.some((row) => row[n] !== null)) panel.append(effectTable(n));
  const adds = nodes.adds && nodes.adds[n];
  if (adds) panel.append(element("p", `Without it, the circuit's loss of ${c.subtask} rises by ${number(adds.value)} ${c.unit}` +
    (adds.low === null ? "." : ` [${number(adds.low, 2)}, ${number(adds.high, 2)}].`)));
  pushesOf(nodes.name[n]);
  const share = nodes.share && nodes.share[n];
  if (share !== null && share !== undefined) panel.append(element("p", `In ${Math.round(100 * share)} % of the runs.`));
  ends("Comes from", "to", "from", n);
  ends("Goes to", "from", "to", n);
  examplesOf(nodes.name[n]);
}

function pushesOf(name) {
  const found = of(data.pushes, name), quoted = (tokens) => tokens.map((token) => `“${seen(token)}”`).join(" ");
  if (!found) return;
  by("panel").append(element("p", `Where it is positive it makes likelier, by itself: ${quoted(found.up)}; less likely: ` +
    `${quoted(found.down)}.`));
}

function effectTable(n) {
  const body = element("tbody"), nodes = state.circuit.nodes;
  state.circuit.subtasks.forEach((name, s) => {
    const cell = element("td", interval(nodes, n, s)), low = nodes.low[s][n];
    if (low !== null && low <= 0 && nodes.high[s][n] >= 0) cell.className = "faint";
    body.append(element("tr", null, element("th", name), cell));
  });
  const head = element("thead", null, element("tr", null, element("th", "effect on"), element("th", `${state.circuit.unit} [95 % interval]`)));
  return element("table", null, head, body);
}

// The strongest edges that arrive at, or leave, a unit.
const LISTED = 6;
function ends(title, here, there, n) {
  const c = state.circuit, edges = c.edges;
  const found = edges[here].map((m, e) => [m, e]).filter(([m, e]) => m === n && c.flow[e]).map((pair) => pair[1]);
  if (!found.length) return;
  found.sort((a, b) => Math.abs(c.flow[b]) - Math.abs(c.flow[a]) || a - b);
  const list = element("ul");
  list.className = "ends";
  for (const e of found.slice(0, LISTED)) {
    const other = edges[there][e], s = strongest(edges, e), button = element("button", c.nodes.name[other]);
    button.type = "button";
    button.addEventListener("click", () => pick(other, true));
    const weight = edges.weight && edges.weight[e] !== null ? `, weight ${number(edges.weight[e])}` : "";
    const line = element("li", null, button, ` ${interval(edges, e, s)}${weight}`);
    if (look(edges, e).faint) line.className = "faint";
    list.append(line);
  }
  const more = found.length > LISTED ? `, the ${LISTED} strongest of ${found.length}` : "";
  by("panel").append(element("h3", `${title} (${c.unit}${more})`), list);
}

// Tokens in context, shaded by activation; or a pattern of bits with one activation. A head's token, on click, shows what
// it attends to there.
function examplesOf(name) {
  const found = of(data.examples, name);
  if (!found || !found.length) return;
  const heads = found.some((one) => one.attention);
  by("panel").append(element("h3", heads ? "Excited most by (click a token: what it attends to there)" : "Excited most by"));
  const most = Math.max(...found.flatMap((one) => one.activations.map((a) => Math.abs(a || 0)))) || 1;
  for (const one of found) {
    const aligned = one.activations.length === one.tokens.length, said = element("p", "");
    const peak = one.activations.reduce((p, a) => (Math.abs(a || 0) > Math.abs(p) ? a : p), 0);
    const at = aligned && peak ? one.activations.indexOf(peak) : -1;
    const activation = (t) => (aligned ? { share: (one.activations[t] || 0) / most, title: number(one.activations[t]) } : null);
    const line = element("div");
    const attend = (t) => {
      fillLine(line, one.tokens, t, attendedFrom(one.attention, t), attend);
      said.textContent = attendedWords(one.attention, one.tokens, t);
    };
    fillLine(line, one.tokens, at, activation, one.attention ? attend : null);
    const where = one.at === undefined ? "" : ` at token ${one.at + 1} of its text`;
    const about = [one.subtask, `${number(peak)}${where}`, one.target];
    by("panel").append(element("p", about.filter((part) => part).join(", ")), line, said);
  }
}

// Faithfulness was measured at some sizes: say those on both sides of what is shown.
function showFaithfulness() {
  const found = state.circuit.faithfulness, said = by("faithfulness");
  by("curve").hidden = !found.length;
  if (!found.length) {
    said.textContent = "Faithfulness was not measured for this circuit.";
    return;
  }
  const others = state.circuit.nested || state.count === state.circuit.units.length ? ""
    : " Circuits of other sizes were learned by themselves, and are not the units shown here.";
  const at = (one) => `${number(one.faithfulness)} [${number(one.low, 2)}, ${number(one.high, 2)}] with ${one.size} units` +
    ` (random units ${number(one.random, 2)}` +
    (one.blind === null || one.blind === undefined ? ")" : `, whatever the example is ${number(one.blind, 2)})`);
  const below = found.filter((one) => one.size <= state.count).pop();
  const above = found.find((one) => one.size >= state.count);
  const parts = below === above ? [at(below)] : [below, above].filter((one) => one).map(at);
  said.textContent = `Faithfulness on ${state.circuit.subtask}: ${parts.join("; ")}.${others}`;
  drawCurve(found);
}

function drawCurve(found) {
  const curve = by("curve"), pen = curve.getContext("2d"), ratio = window.devicePixelRatio || 1;
  const w = curve.clientWidth, h = curve.clientHeight, most = Math.log(Math.max(2, found[found.length - 1].size));
  curve.width = Math.round(w * ratio);
  curve.height = Math.round(h * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const values = found.flatMap((one) => [one.faithfulness, one.random, one.blind]).filter((v) => v !== null && v !== undefined);
  const low = Math.min(0, ...values), high = Math.max(1, ...values);
  const x = (size) => 26 + (w - 34) * Math.log(Math.max(1, size)) / most;
  const y = (value) => h - 16 - (h - 26) * (value - low) / (high - low);
  pen.font = "10px system-ui, sans-serif";
  pen.fillStyle = inks.soft;
  for (const value of [0, 1]) {
    pen.fillText(String(value), 12, y(value) + 3);
    pen.fillRect(26, y(value), w - 34, 0.5);
  }
  pen.fillText("units shown, logarithmic; grey: random; dashed: blind", 26, h - 3);
  for (const [name, ink, dash] of [["random", inks.plain, []], ["blind", inks.plain, [3, 3]], ["faithfulness", inks.needed, []]]) {
    const points = found.filter((one) => one.size > 0 && one[name] !== null && one[name] !== undefined);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.setLineDash(dash);
    pen.beginPath();
    points.forEach((one, i) => pen[i ? "lineTo" : "moveTo"](x(one.size), y(one[name])));
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.fillStyle = inks.mark;
  pen.fillRect(x(state.count) - 1, 6, 2, h - 22);
}

function showLegend() {
  const legend = by("legend"), c = state.circuit;
  legend.replaceChildren();
  const entries = state.prompt >= 0 ? [["active, above 0", "var(--high)"], ["active, below 0", "var(--low)"]] : state.subtask < 0 ? c.subtasks.map((name, s) => [`needed most by ${name}`, c.colours[s]])
    : [["needed", "var(--needed)"], ["harmful", "var(--harmful)"]];
  for (const [text, swatch] of entries) {
    const entry = element("span", text);
    entry.style.setProperty("--swatch", swatch);
    legend.append(entry);
  }
  legend.append(element("i", "circle: neuron; square: head; triangle: input; diamond: output"));
  if (state.prompt >= 0) legend.append(element("i", "the stronger, the nearer to the unit's largest activation on this page"));
}
