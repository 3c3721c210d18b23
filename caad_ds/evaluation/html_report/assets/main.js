// The filters, and what they have to do with each other.
const state = { subset: ABSENT, condition: 0, rule: 0, whose: ABSENT, verdict: "", words: [], explained: false, cell: null };
const field = (id) => document.getElementById(id);

function options(id, names, first) {
  const all = [...(first === undefined ? [] : [[first, ABSENT]]), ...names.map((name, k) => [name, k])];
  field(id).replaceChildren(...all.map(([name, value]) => element("option", { value: String(value) }, name)));
}

// The items that every filter leaves.
function left() {
  const found = [];
  const texts = state.words.length ? searchable() : null;
  const runs = state.whose === ABSENT ? data.runs.map((_, run) => run) : [state.whose];
  const judged = runs.map((run) => right[run][state.rule][state.condition]);
  const wanted = Number(state.verdict);
  for (let item = 0; item < count; item += 1) {
    if (state.subset !== ABSENT && subsetOf[item] !== state.subset) continue;
    if (state.verdict !== "" && !judged.every((column) => column[item] === wanted)) continue;
    if (state.explained && !explainedBy.has(ids[item])) continue;
    if (state.cell && !state.cell.has(item)) continue;
    if (texts && !state.words.every((word) => texts[item].includes(word))) continue;
    found.push(item);
  }
  return found;
}

function update() {
  const found = left();
  field("count").textContent = found.length === count
    ? `${count.toLocaleString("en")} items` : `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} items`;
  field("uncell").hidden = !state.cell;
  field("uncell").textContent = state.cell ? `${state.cell.name} \u00d7` : "";
  for (const button of document.querySelectorAll("[data-cell]")) {
    button.setAttribute("aria-pressed", String(button.dataset.cell === state.cell?.id));
  }
  listItems(found);
}

// A cell of a matrix; the same again takes it back.
function choose(cell) {
  state.cell = cell && state.cell?.id !== cell.id ? cell : null;
  update();
  if (state.cell && list.getBoundingClientRect().top > innerHeight - 150) field("items").scrollIntoView();
}

function read() {
  const number = (id) => Number(field(id).value);
  const before = { ...state };
  Object.assign(state, {
    subset: number("subset"), condition: number("condition"), rule: number("rule"), whose: number("whose"),
    verdict: field("verdict").value, explained: field("explained").checked,
    words: field("search").value.toLowerCase().split(/\s+/).filter(Boolean),
  });
  if (before.rule !== state.rule) {
    state.cell = null; // its items were those of another rule
    current = null;
  }
  if (before.condition !== state.condition && state.cell?.id.startsWith("pair/")) state.cell = null;
  if (["rule", "subset", "condition"].some((key) => before[key] !== state[key])) showMatrices();
  update();
}

function showMatrices() {
  showFlips();
  showPair();
}

function otherRuns() {
  state.cell = null;
  showMatrices();
  update();
}

headline();
scoreTable();
furtherTables();
options("subset", data.subsets, "all");
options("condition", data.conditions.map((name) => name ?? "all"));
options("rule", data.rules);
options("whose", data.runs.map((_, run) => runName(run)), "all systems");
for (const id of ["pair-a", "pair-b"]) options(id, data.runs.map((_, run) => runName(run)));
field("pair-b").value = String(Math.min(1, data.runs.length - 1));
const most = Math.max(...runsOf.map((runs) => runs.length));
field("seed").replaceChildren(element("option", { value: "" }, "mean of all"),
  ...Array.from({ length: most }, (_, k) => element("option", { value: String(k) }, String(k + 1))));
field("seed-label").hidden = !several;
field("flips-section").hidden = !data.flips;
field("pair-section").hidden = data.runs.length < 2;
field("condition-label").hidden = !HAS_CONDITIONS;
field("explained-label").hidden = !data.tokens.length;

for (const id of ["subset", "condition", "rule", "whose", "verdict", "explained"]) field(id).addEventListener("change", read);
field("search").addEventListener("input", read);
field("filters").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["pair-a", "pair-b", "seed"]) field(id).addEventListener("change", otherRuns);
field("uncell").addEventListener("click", () => choose(null));
field("clear").addEventListener("click", () => {
  state.cell = null;
  field("filters").reset();
  read();
});
showMatrices();
update();
