// One item: its audio, what was asked, what every system answered, and where it is known each token.
const panel = document.getElementById("item");
let sources = null;
let current = null; // number of the item that is shown

function sourceOf(name) {
  sources ??= JSON.parse(document.getElementById("sources").textContent);
  return sources[name];
}

function showItem(item) {
  if (item === current) return markCondition();
  current = item;
  if (item === ABSENT) {
    panel.replaceChildren(element("p", { class: "soft" }, "No item is left by these filters."));
    return;
  }
  const back = element("button", { type: "button", id: "back" }, "\u2190 Items");
  back.addEventListener("click", closeItem);
  panel.replaceChildren(
    back,
    element("h3", {}, apart(ids[item])),
    element("p", { class: "soft" }, apart(data.subsets[subsetOf[item]])),
    element("p", { class: "question", dir: "auto" }, text(data.items.question[item])),
    ...players(item),
    element("p", { class: "gold" }, "Right answer: ", element("b", {}, apart(text(data.items.gt[item])))),
    answerTable(item),
    ...(explainedBy.get(ids[item]) ?? []).map((k) => explanation(data.tokens[k])),
  );
  panel.scrollTop = 0;
  markCondition();
}

function players(item) {
  return data.items.audio[item].map((name, k, all) => {
    const number = all.length > 1 ? ` ${k + 1}` : "";
    if (name === null) return element("p", { class: "soft" }, `No player of audio${number}: `, apart(data.silent[ids[item]][k]));
    const label = `Audio${number} of ${ids[item]}`;
    return element("audio", { controls: true, preload: "none", src: sourceOf(name), "aria-label": label });
  });
}

function answerTable(item) {
  const heads = HAS_CONDITIONS ? data.conditions : ["answer"];
  const top = element("tr", {}, element("td", {}), ...heads.map((name, k) => element("th", { scope: "col", "data-condition": k }, apart(name))));
  const hinted = data.items.hint.some((hints) => hints[item] !== ABSENT);
  const hints = element("tr", {}, element("th", { class: "hint", scope: "row" }, "hint"),
    ...data.items.hint.map((each, k) => element("td", { class: "hint", dir: "auto", "data-condition": k }, text(each[item]) || "none")));
  const lines = data.runs.map((_, run) => element("tr", {},
    element("th", { scope: "row", title: data.runs[run].folder }, apart(runName(run))),
    ...heads.map((_, k) => {
      const is = right[run][state.rule][k][item];
      return element("td", { "data-condition": k, "data-run": run },
        element("span", { class: `mark ${is ? "right" : "wrong"}`, role: "img", "aria-label": is ? "right:" : "wrong:" }, is ? "\u2713" : "\u2717"),
        apart(text(answers[run][k][item])));
    })));
  const table = element("table", { "aria-label": "Answers" },
    element("thead", {}, top, hinted ? hints : null), element("tbody", {}, ...lines));
  return element("div", { class: "answers", "--columns": heads.length }, table);
}

// The column of the chosen condition, and the verdicts by the chosen rule.
function markCondition() {
  for (const cell of panel.querySelectorAll("[data-condition]")) {
    cell.classList.toggle("asked", HAS_CONDITIONS && Number(cell.dataset.condition) === state.condition);
  }
}

const visible = (token) => token.replaceAll(" ", "\u2423").replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5");

function explanation(token) {
  const models = token.teacher ? `student ${token.model}, teacher ${token.teacher}` : token.model;
  const asked = [...(token.condition === null ? [] : [token.condition]), models].join("; ");
  const legend = token.signals.map((_, k) => element("span", {}, element("i", { class: `signal${k}` }), token.names[k]));
  const strip = token.positions.map((position, place) => element("div", { class: "position", role: "listitem" },
    element("h4", {}, `${place + 1} `, apart(visible(position.text))),
    ...position.tokens.map((each) => element("div", { class: `token${each.own ? " own" : ""}` }, apart(visible(each.text)),
      ...each.p.map((p, k) => element("div", { class: "bar", title: `${token.signals[k]} ${p}` },
        element("span", {}, element("i", { class: `signal${k}`, "--p": `${100 * p}%` })), p.toFixed(2)))))));
  return element("section", { class: "tokens" },
    element("h3", {}, "Token by token"),
    element("p", { class: "soft" }, apart(asked), `; answer (${token.whose}): `, apart(token.answer)),
    element("p", { class: "soft legend" }, ...legend),
    element("div", { class: "strip", tabindex: "0", role: "list", "aria-label": "Probabilities at each token" }, ...strip));
}

function play() {
  const audio = panel.querySelector("audio");
  if (audio) audio.paused ? audio.play() : audio.pause();
}

// On a narrow screen the item lies over the list.
function openItem() {
  panel.classList.add("open");
  panel.focus({ preventScroll: true });
}

function clickItem() {
  openItem();
  if (getComputedStyle(panel).position !== "fixed") list.focus({ preventScroll: true }); // its arrows start from here
}

function closeItem() {
  panel.classList.remove("open");
  list.focus({ preventScroll: true });
}

panel.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeItem();
});
