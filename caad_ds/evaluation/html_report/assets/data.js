// What the page is about: columns of items, numbers for texts, a byte for each verdict.
const data = JSON.parse(document.getElementById("data").textContent);
const ids = data.items.id;
const count = ids.length;
const ABSENT = -1;
const HAS_CONDITIONS = data.conditions.length > 1;

const columns = (lists) => lists.map((list) => Int32Array.from(list));
const subsetOf = Int32Array.from(data.items.subset);
const answers = data.answers.map(columns); // [run][condition][item]
// right[run][rule][condition][item]
const right = data.verdicts.map((rules) =>
  rules.map((conditions) => conditions.map((bits) => Uint8Array.from(bits, Number))));
const runsOf = data.systems.map((name) => data.runs.flatMap((run, k) => (run.system === name ? [k] : [])));
const several = runsOf.some((runs) => runs.length > 1);

// By item the numbers of its explanations.
const explainedBy = new Map();
data.tokens.forEach((token, k) => {
  explainedBy.set(token.id, [...(explainedBy.get(token.id) ?? []), k]);
});

const text = (number) => (number === ABSENT ? "" : data.texts[number]);

function runName(run) {
  const name = data.runs[run].system;
  const theirs = runsOf[data.systems.indexOf(name)];
  return theirs.length > 1 ? `${name}, run ${theirs.indexOf(run) + 1}` : name;
}

// All that can be searched for in an item, in small letters; made while nothing else is to be done, at the latest when
// it is first asked for.
const searched = [];
let small = null;
const said = [data.items.question, data.items.gt, ...data.items.hint, ...answers.flat()];

function index(end) {
  small ??= data.texts.map((each) => each.toLowerCase());
  for (let item = searched.length; item < end; item += 1) {
    const numbers = new Set(said.map((list) => list[item]));
    numbers.delete(ABSENT);
    searched.push([ids[item].toLowerCase(), ...[...numbers].map((number) => small[number])].join("\n"));
  }
}

function indexAhead(deadline) {
  while (searched.length < count && deadline.timeRemaining() > 4) index(Math.min(count, searched.length + 100));
  if (searched.length < count) requestIdleCallback(indexAhead);
}
globalThis.requestIdleCallback?.(indexAhead);

function searchable() {
  index(count);
  return searched;
}

// With one decimal, as the tables have it: a tie goes to the even digit.
const percent = (share) => {
  const value = 100 * share;
  return value % 1 === 0.25 ? `${Math.floor(value)}.2` : value.toFixed(1);
};

// An element with properties and children; a text is always a text.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else if (key in made && key !== "scope") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
const apart = (value) => element("bdi", {}, value); // a text whose direction changes nothing around it
