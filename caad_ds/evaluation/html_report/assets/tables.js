// The tables of figures.
function scoreTable() {
  const { columns: names, rows } = data.scores;
  const head = element("tr", {}, ...["system", ...(several ? ["runs"] : []), ...names].map((name) =>
    element("th", { scope: "col" }, apart(name))));
  const lines = rows.map((row) => element("tr", {},
    element("th", { scope: "row" }, apart(row.name)),
    ...(several ? [element("td", {}, String(row.runs))] : []),
    ...row.cells.map((cell) => element("td", {},
      element("span", { class: cell.marked ? "marked" : "" }, cell.text + (cell.marked ? "*" : "")),
      element("small", {}, cell.interval ?? "")))));
  document.getElementById("scores").append(element("thead", {}, head), element("tbody", {}, ...lines));
}

function furtherTables() {
  for (const { title, header, rows, legend } of data.tables) {
    const cells = (tag, line) => element("tr", {}, ...line.map((cell, k) =>
      element(k ? tag : "th", k && tag === "td" ? {} : { scope: tag === "th" ? "col" : "row" }, apart(cell))));
    const table = element("table", { class: "figures" },
      element("thead", {}, cells("th", header)), element("tbody", {}, ...rows.map((row) => cells("td", row))));
    const box = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table);
    document.getElementById("tables").append(element("details", {},
      element("summary", {}, apart(title)), box, legend ? element("p", { class: "soft" }, legend) : null));
  }
}

function headline() {
  const named = (many, one) => `${many.toLocaleString("en")} ${one}${many === 1 ? "" : "s"}`;
  const runs = data.runs.length === data.systems.length ? "" : `, ${named(data.runs.length, "run")}`;
  document.getElementById("facts").textContent = `${named(count, "item")}, ${named(data.systems.length, "system")}${runs}`;
  document.getElementById("notes").append(...data.notes.map((note) => element("p", { class: "soft" }, apart(note))));
}
