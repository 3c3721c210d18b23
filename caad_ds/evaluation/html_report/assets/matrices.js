// Matrices of right and wrong, whose cells choose items. A cell is {title, say, has(item)}.
const VERDICTS = ["right", "wrong"];

// Shares of the items in `among` by [first right, wrong][second right, wrong]: the mean over pairs of columns; `any`
// counts those that are there in any of the pairs, which are what the cell leaves in the list.
function cells(pairs, among) {
  const counts = pairs.map(([first, second]) => {
    const found = [[0, 0], [0, 0]];
    for (const item of among) found[1 - first[item]][1 - second[item]] += 1;
    return found;
  });
  return [0, 1].map((row) => [0, 1].map((column) => ({
    share: among.length ? counts.reduce((sum, each) => sum + each[row][column] / among.length, 0) / pairs.length : 0,
    items: counts.reduce((sum, each) => sum + each[row][column], 0) / pairs.length,
    any: among.filter(holds(pairs, row, column)).length,
  })));
}

function holds(pairs, row, column) {
  return (item) => pairs.some(([first, second]) => first[item] === 1 - row && second[item] === 1 - column);
}

function inAttribute() {
  const all = [];
  for (let item = 0; item < count; item += 1) {
    if (state.subset === ABSENT || subsetOf[item] === state.subset) all.push(item);
  }
  return all;
}

function matrix({ key, title, rowHead, columnHead, pairs, words, outlined, foot }) {
  const found = cells(pairs, inAttribute());
  const button = (row, column) => {
    const { share, items, any } = found[row][column];
    const shown = Number.isInteger(items) ? String(items) : items.toFixed(1);
    const several = pairs.length > 1;
    const name = `${title}: ${words(row, column)}`;
    const id = `${key}/${row}${column}`;
    const made = element("button", {
      type: "button", "aria-pressed": String(state.cell?.id === id), "--share": `${(100 * share).toFixed(1)}%`,
      "aria-label": several
        ? `${name}: ${any} items; on average over the runs ${shown}, ${percent(share)}%` : `${name}: ${shown} items, ${percent(share)}%`,
    }, element("b", {}, shown), element("small", {}, `${percent(share)}%`),
    several ? element("small", {}, `mean; ${any} in any run`) : null);
    made.dataset.cell = id;
    made.addEventListener("click", () => choose({ id, name, has: holds(pairs, row, column) }));
    return element("td", { class: outlined && row === 0 && column === 1 ? "lost" : "" }, made);
  };
  const line = (row) => element("tr", {}, element("th", { scope: "row" }, VERDICTS[row]), button(row, 0), button(row, 1));
  const table = element("table", { "aria-label": `${title}: rows ${rowHead}, columns ${columnHead}` },
    element("thead", {}, element("tr", {}, element("td", {}), ...VERDICTS.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, line(0), line(1)));
  return element("div", { class: "matrix" }, element("h3", {}, apart(title)),
    table, foot ? element("p", { class: "soft" }, foot()) : null);
}

function showFlips() {
  if (!data.flips) return;
  const seed = document.getElementById("seed").value;
  const made = data.systems.map((title, k) => {
    const runs = seed === "" ? runsOf[k] : runsOf[k].slice(Number(seed), Number(seed) + 1);
    if (!runs.length) return null;
    const pairs = runs.map((run) => [right[run][state.rule][data.flips.before], right[run][state.rule][data.flips.after]]);
    return matrix({
      key: `flip/${k}/${seed}`, title, pairs, rowHead: "no hint", columnHead: "false hint", outlined: true,
      words: (row, column) => `${VERDICTS[row]} without a hint, ${VERDICTS[column]} with the false one`
        + (runs.length > 1 ? ", in any of its runs" : ""),
      foot: () => `shift ${shift(pairs, inAttribute())}`,
    });
  });
  document.getElementById("flips").replaceChildren(...made.filter(Boolean));
}

// Right answers that the false hint turns wrong, of those right without it: the mean over runs.
function shift(pairs, among) {
  let sum = 0;
  for (const [without, hinted] of pairs) {
    let before = 0, lost = 0;
    for (const item of among) {
      before += without[item];
      lost += without[item] & (1 - hinted[item]);
    }
    if (!before) return "-";
    sum += lost / before;
  }
  return percent(sum / pairs.length);
}

function showPair() {
  if (data.runs.length < 2) return;
  const [a, b] = ["pair-a", "pair-b"].map((id) => Number(document.getElementById(id).value));
  const under = HAS_CONDITIONS ? `, ${data.conditions[state.condition]}` : "";
  document.getElementById("pair-condition").textContent = HAS_CONDITIONS ? ` (${data.conditions[state.condition]})` : "";
  const pairs = [[right[a][state.rule][state.condition], right[b][state.rule][state.condition]]];
  document.getElementById("pair").replaceChildren(matrix({
    key: `pair/${a}/${b}`, title: `${runName(a)} and ${runName(b)}`, pairs, rowHead: runName(a), columnHead: runName(b),
    words: (row, column) => `the first ${VERDICTS[row]}, the second ${VERDICTS[column]}${under}`,
  }));
}
