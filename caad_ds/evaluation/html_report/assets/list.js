// The list: only the rows that can be seen are elements, whatever the number of items.
const ROW = 58;
const list = document.getElementById("list");
const space = document.getElementById("space");
const pool = [];
let shown = []; // numbers of the items that the filters leave
let chosen = 0; // place in `shown`
let drawing = false;

function listItems(items) {
  const before = shown[chosen];
  shown = items;
  chosen = Math.max(0, items.indexOf(before));
  space.style.height = `${ROW * items.length}px`;
  for (const row of pool) row.place = null; // what they show may have changed
  list.scrollTop = ROW * Math.max(0, chosen - 2);
  drawRows();
  showItem(shown.length ? shown[chosen] : ABSENT);
}

function drawRows() {
  drawing = false;
  const needed = Math.ceil(list.clientHeight / ROW) + 6;
  while (pool.length < needed) pool.push(newRow());
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3);
  for (let place = first; place < first + pool.length; place += 1) {
    const row = pool[place % pool.length];
    const key = place < shown.length ? place : ABSENT;
    if (row.place !== key) fill(row, key);
    const selected = String(key === chosen);
    if (row.selected !== selected) {
      row.selected = selected;
      row.node.setAttribute("aria-selected", selected);
    }
  }
  const active = pool[chosen % pool.length];
  if (shown.length && active.place === chosen) list.setAttribute("aria-activedescendant", active.node.id);
  else list.removeAttribute("aria-activedescendant");
}

function newRow() {
  const parts = ["id", "marks", "what"].map((name) => element("span", { class: name, dir: name === "what" ? "auto" : "" }));
  const node = element("div", { class: "row", role: "option", id: `row${pool.length}` }, ...parts);
  const row = { node, parts, place: ABSENT, selected: "" };
  node.addEventListener("click", () => {
    select(row.place);
    clickItem();
  });
  space.append(node);
  return row;
}

function fill(row, place) {
  row.place = place;
  row.node.hidden = place === ABSENT;
  if (place === ABSENT) return;
  const item = shown[place];
  const [id, marks, what] = row.parts;
  id.textContent = ids[item];
  showMarks(marks, item);
  what.textContent = `${text(data.items.gt[item])} \u2190 ${text(data.items.question[item])}`;
  row.node.style.transform = `translateY(${ROW * place}px)`;
  row.node.setAttribute("aria-posinset", place + 1);
  row.node.setAttribute("aria-setsize", shown.length);
}

const SHOWN_MARKS = 8;
const MARKS = [["\u2717", "wrong"], ["\u2713", "right"]];
const SAID = data.runs.map((_, run) => MARKS.map(([, verdict]) => `${runName(run)}: ${verdict}`));

// A mark per run under the chosen condition; of many runs how many are right. The elements stay the same.
function showMarks(marks, item) {
  const verdicts = right.map((run) => run[state.rule][state.condition][item]);
  if (verdicts.length > SHOWN_MARKS) {
    marks.textContent = `${verdicts.reduce((sum, each) => sum + each, 0)} of ${verdicts.length} right`;
    return;
  }
  while (marks.childElementCount < verdicts.length) marks.append(element("span", { role: "img" }));
  verdicts.forEach((is, run) => {
    const mark = marks.children[run];
    const [letter, verdict] = MARKS[is];
    if (mark.className === verdict) return;
    mark.className = verdict;
    mark.textContent = letter;
    mark.title = SAID[run][is];
    mark.setAttribute("aria-label", SAID[run][is]);
  });
}

function select(place) {
  if (!shown.length) return;
  chosen = Math.min(Math.max(place, 0), shown.length - 1);
  const top = ROW * chosen;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  drawRows();
  showItem(shown[chosen]);
}

function listKeys(event) {
  const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  const moves = {
    ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + page, PageUp: chosen - page, Home: 0, End: shown.length - 1,
  };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in moves) select(moves[event.key]);
  else if (event.key === " ") play();
  else if (event.key === "Enter") openItem();
  else return;
  event.preventDefault();
}

list.addEventListener("scroll", () => {
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(drawRows);
  }
}, { passive: true });
list.addEventListener("keydown", listKeys);
new ResizeObserver(() => drawRows()).observe(list);
