// Sorting, and marks: kept in the rows, saved to a file and loaded from one.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const body = document.querySelector(".pairs tbody");
const rows = [...body.rows];
const parts = (row) => ({buttons: [...row.querySelectorAll(".decision button")], note: row.querySelector(".decision input"), cell: row.cells[row.cells.length - 1]});
let unsaved = false;

function markOf(row) {
  return parts(row).buttons.find((button) => button.getAttribute("aria-pressed") === "true")?.value ?? "";
}

function mark(row, value) {
  const {buttons, cell} = parts(row);
  for (const button of buttons) button.setAttribute("aria-pressed", button.value === value);
  for (const name of ["accept", "reject"]) row.classList.toggle(name, name === value);
  cell.dataset.sort = value;
}

function shown() {
  return document.querySelector("[name=shown]:checked").value;
}

/** Rows that are wanted, and how far the marks are; `said`: what else there is to say. */
function show(said = "") {
  for (const row of rows) {
    row.hidden = (shown() === "wrong" && row.dataset.level === "passed") || (shown() === "unmarked" && markOf(row) !== "");
  }
  const marks = rows.map(markOf);
  const count = (value) => marks.filter((each) => each === value).length;
  find("status").textContent = `${count("accept")} accepted, ${count("reject")} rejected, ${count("")} not marked${unsaved ? ", not saved" : ""}. ${said}`;
}

/** By the values of a column; what has none comes last, and rows that are equal stay as they are. */
function sort(column, descending) {
  const value = (row) => row.cells[column].dataset.sort;
  const numbers = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
  const compare = (a, b) => numbers ? Number(a) - Number(b) : a.localeCompare(b, undefined, {numeric: true});
  const ordered = [...body.rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...ordered);
}

for (const button of document.querySelectorAll(".pairs thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(head.cellIndex, descending);
  });
}

for (const row of rows) {
  const {buttons, note} = parts(row);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      mark(row, button.getAttribute("aria-pressed") === "true" ? "" : button.value);
      unsaved = true;
      show();
    });
  }
  note.addEventListener("input", () => {
    unsaved = true;
    show();
  });
}

function review() {
  const marks = rows.map((row) => ({pair: row.dataset.pair, result: row.dataset.hash, mark: markOf(row), note: parts(row).note.value}));
  return {format: data.format, batch: data.title, marks: marks.filter(({mark, note}) => mark || note)};
}

find("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(review(), null, 2) + "\n"], {type: "application/json"}));
  link.download = "review.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  unsaved = false;
  show("Saved as review.json, where this browser saves files.");
});

/** Take the marks of a file; those of other pairs, or of results that were made anew since, are left out. */
function take(found) {
  if (found?.format !== data.format || !Array.isArray(found.marks)) return "This is no file of marks.";
  const byName = new Map(rows.map((row) => [row.dataset.pair, row]));
  let left = 0;
  for (const {pair, result, mark: value, note} of found.marks) {
    const row = byName.get(pair);
    if (!row || row.dataset.hash !== result || !["", "accept", "reject"].includes(value)) {
      left++;
      continue;
    }
    mark(row, value);
    parts(row).note.value = typeof note === "string" ? note : "";
  }
  return `${found.marks.length - left} marks loaded${left ? `; ${left} left out, of pairs that are not here or were registered again` : ""}.`;
}

find("load").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  let found = null;
  try {
    found = JSON.parse(await file.text());
  } catch {
    // No JSON: said below.
  }
  const said = take(found);
  event.target.value = "";
  show(said);
});

for (const input of document.querySelectorAll("[name=shown]")) input.addEventListener("change", () => show());
window.addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
show();
