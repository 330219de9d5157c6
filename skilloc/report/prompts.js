// Prompts: what the circuit's units do on them, one token at a time; and what heads attend to.
const LONGEST = 70, LOUDEST = 6, LOOKED = 5;
const seen = (token) => token.replace(/\n/g, "↵");

// Tokens one after the other. `shade` gives each a share from -1 to 1 and a title; `pick` is called with a clicked one.
function fillLine(line, tokens, at, shade, pick) {
  line.replaceChildren();
  line.className = "example";
  tokens.forEach((token, t) => {
    const shown = element("span", token.replace(/\n/g, "↵\n")), found = shade ? shade(t) : null;
    if (found) {
      const ink = found.share < 0 ? "--low" : "--high", share = Math.round(70 * Math.min(1, Math.abs(found.share)));
      shown.style.background = `color-mix(in srgb, var(${ink}) ${share}%, transparent)`;
      shown.title = found.title;
    }
    if (t === at) shown.className = "peak";
    if (pick) clickable(shown, () => pick(t));
    line.append(shown);
  });
}

function clickable(shown, act) {
  shown.classList.add("token");
  shown.tabIndex = 0;
  shown.setAttribute("role", "button");
  shown.addEventListener("click", act);
  shown.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  });
}

// Attention comes as whole percents, from each token to those up to itself; the most attended one is shaded most.
function attendedFrom(rows, from) {
  const row = rows[from], most = Math.max(1, ...row);
  return (t) => (t > from ? { share: 0, title: "comes later" } : { share: row[t] / most, title: `${row[t]} %` });
}

function attendedWords(rows, tokens, from) {
  const row = rows[from], order = row.map((_, t) => t).sort((a, b) => row[b] - row[a] || a - b);
  const parts = order.filter((t) => row[t] > 0).slice(0, LOOKED).map((t) => `“${seen(tokens[t])}” ${row[t]} %`);
  const before = 100 - row.reduce((sum, share) => sum + share, 0);
  if (before > row.length / 2 + 1) parts.push(`what stands before, ${before} %`);
  return `At “${seen(tokens[from])}” it attends to: ${parts.join(", ") || "nothing above half a percent"}.`;
}

// The largest |activation| of each unit on this page, which all others are shares of.
function peaksOf(c) {
  return c.nodes.name.map((name) => {
    const all = (of(data.examples, name) || []).flatMap((one) => one.activations);
    for (const one of data.prompts) all.push(...(of(one.activations, name) || []));
    return all.reduce((most, a) => Math.max(most, Math.abs(a || 0)), 0);
  });
}

// What a node does at the chosen token of the chosen prompt; null where that is not known.
function doneOn(n) {
  const c = state.circuit, found = of(data.prompts[state.prompt].activations, c.nodes.name[n]);
  if (!found) return null;
  const value = found[Math.min(state.at, found.length - 1)];
  return { value, share: c.peaks[n] ? Math.abs(value) / c.peaks[n] : 0 };
}

function choosePrompt(i) {
  state.prompt = state.prompt === i ? -1 : i;
  state.at = state.prompt < 0 ? 0 : data.prompts[i].asked;
  showPrompts();
  showLegend();
  redraw();
}

// The prompts as buttons, those of the circuit's own subtask first; and the chosen one, token by token.
function showPrompts() {
  const box = by("prompts"), own = state.circuit.subtask;
  box.replaceChildren();
  canvas.dataset.prompt = state.prompt;
  if (!data.prompts.length) return;
  box.append(element("h3", "Activations on a prompt"));
  const order = data.prompts.map((_, i) => i);
  order.sort((a, b) => (data.prompts[b].subtask === own) - (data.prompts[a].subtask === own) || a - b);
  for (const i of order) {
    const one = data.prompts[i], text = seen(one.tokens.slice(0, one.asked + 1).join(""));
    const button = element("button", `${one.subtask}: ${text.length > LONGEST ? "…" : ""}${text.slice(-LONGEST)}`);
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === state.prompt));
    button.addEventListener("click", () => choosePrompt(i));
    box.append(button);
  }
  if (state.prompt >= 0) showPrompt(box, data.prompts[state.prompt]);
}

function showPrompt(box, one) {
  const line = element("div"), name = state.picked < 0 ? null : state.circuit.nodes.name[state.picked];
  const rows = name === null ? undefined : of(one.attention, name);
  const found = name === null ? undefined : of(one.activations, name);
  const peak = name === null ? 0 : state.circuit.peaks[state.picked];
  const activation = (t) => ({ share: peak ? found[t] / peak : 0, title: number(found[t]) });
  const shade = rows ? attendedFrom(rows, state.at) : found && found.length === one.tokens.length ? activation : null;
  fillLine(line, one.tokens, state.at, shade, (t) => { state.at = t; showPrompts(); redraw(); });
  const said = element("p", one.answer ? `Right after “${seen(one.tokens[one.asked])}”: “${seen(one.answer)}”. ` : "");
  said.append(rows ? `${name}. ${attendedWords(rows, one.tokens, state.at)}` : name && found
    ? `${name} here: ${number(found[Math.min(state.at, found.length - 1)])}.` : "");
  box.append(line, said, loudest());
}

// The units that are most active here, each compared with itself elsewhere.
function loudest() {
  const list = element("p", "Most active here, as a share of their largest on this page: "), c = state.circuit;
  const found = c.units.filter(visible).map((n) => [n, doneOn(n)]).filter((pair) => pair[1]);
  found.sort((a, b) => b[1].share - a[1].share || a[0] - b[0]);
  for (const [n, done] of found.slice(0, LOUDEST)) {
    const button = element("button", `${c.nodes.name[n]} ${Math.round(100 * done.share)} %`);
    button.type = "button";
    button.addEventListener("click", () => pick(n, true));
    list.append(button, " ");
  }
  return list;
}
