// Words and controls: from the state to the page and back.

const times = (matrix, at) => matrix.slice(0, data.dim).map((row) => row.slice(0, data.dim).reduce((sum, value, k) => sum + value * at[k], row[data.dim]));
const volume = (log) => log >= 0 ? `× ${Math.exp(log).toFixed(2)}` : `÷ ${Math.exp(-log).toFixed(2)}`;

function position(world, axis) {
  const letters = [["L", "R"], ["P", "A"], ["I", "S"]][axis];
  return `${letters[world[axis] >= 0 ? 1 : 0]} ${Math.abs(world[axis]).toFixed(1)}`;
}

async function read() {
  const facts = [["Voxel", times(data.voxel, state.at).map((value) => Math.round(value)).join(", ")]];
  if (data.dim === 3 && data.labels) {
    const world = times(data.world, state.at);
    facts.push([`Position (${data.unit})`, [0, 1, 2].map((axis) => position(world, axis)).join("  ")]);
  }
  const fractions = state.at.map((index, axis) => (index + 0.5) / size[axis]);
  facts.push(["Displacement", `${Math.hypot(...displacement(fractions)).toFixed(1)} ${data.unit}`]);
  const here = async (layer) => {
    const all = await levels(layer), shape = deep(layer.shape, 1);
    const [x, y, z] = fractions.map((fraction, axis) => Math.floor(fraction * shape[axis]));
    return all[x + shape[0] * (y + shape[1] * z)];
  };
  for (const layer of data.segmentations) facts.push([layer.name, layer.values[await here(layer)]]);
  for (const layer of data.maps) {
    const level = await here(layer);
    const value = layer.low + (layer.high - layer.low) * (level - 2) / 253;
    const none = level === 1 ? "background" : layer.name === "jacobian" ? "folds" : "unknown";
    if (layer.name === "jacobian") facts.push(["Moving image's volume", level > 1 ? volume(value) : none]);
    else facts.push(["Expected error", level > 1 ? `${value.toFixed(1)}${level === 255 ? " or more" : ""} ${data.unit}` : none]);
  }
  find("readout").replaceChildren(...facts.map(([name, value]) => {
    const row = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) row.append(Object.assign(document.createElement(tag), {textContent: text}));
    return row;
  }));
}

function legend(title, colours, ends, folds) {
  const box = Object.assign(document.createElement("div"), {className: "legend"});
  const bar = Object.assign(document.createElement("canvas"), {width: 256, height: 1});
  const row = document.createElement("div");
  box.append(Object.assign(document.createElement("strong"), {textContent: title}));
  if (colours) {
    const context = bar.getContext("2d"), pixels = context.createImageData(256, 1);
    colours.forEach((colour, level) => pixels.data.set(colour, 4 * level));
    context.putImageData(pixels, 0, 0);
    box.append(bar);
  }
  row.append(...ends.map((text) => Object.assign(document.createElement("span"), {textContent: text})));
  box.append(row);
  if (folds) {
    const line = Object.assign(document.createElement("span"), {textContent: "folds"});
    line.prepend(Object.assign(document.createElement("i"), {className: "swatch"}));
    box.append(line);
  }
  return box;
}

async function describe() {
  const shown = [];
  if (state.mode === "difference") shown.push(legend("Difference", DIFFERENCE, ["fixed brighter", "equal", "moving brighter"]));
  if (state.grid) shown.push(legend("Warped grid", null, [`lines of the moving image's space, every ${stepOfGrid()} ${data.unit}`]));
  if (state.mode === "edges") shown.push(legend("Edges of the fixed image", null, ["orange lines, on the moving image"]));
  if (state.labels) shown.push(legend("Labels", null, ["borders of the moved labels, a colour for each"]));
  const map = data.maps.find((layer) => layer.name === state.map);
  if (map?.name === "jacobian") {
    const factor = +Math.exp(map.high).toFixed(2);
    shown.push(legend("Volume, moving against fixed", JACOBIAN, [`÷ ${factor} smaller`, "same", `× ${factor} larger`], (await levels(map)).includes(0)));
  } else if (map) {
    shown.push(legend(`Expected error (${data.unit})`, ERROR, ["0", `${map.high / 2}`, `${map.high} or more`]));
  }
  find("legends").replaceChildren(...shown);
  const hints = [];
  if (state.mode === "difference" && state.stage <= last) hints.push("Two modalities differ even where they are aligned: choose translated, which has the fixed image's contrast.");
  if ((state.grid || state.map || state.labels) && state.stage < last) hints.push("What lies on top belongs to the final field, not to this stage.");
  if (find("hint").textContent !== hints.join(" ")) find("hint").textContent = hints.join(" ");
}

const SLIDERS = ["blend", "tiles", "edges", "strength", ...Object.keys(GREYS)];

function show() {
  for (const [id, on] of [["grid", state.grid], ["labels", state.labels], ["cross", state.cross], ["whole", !!document.fullscreenElement], ["jacobian", state.map === "jacobian"], ["error", state.map === "error"]]) {
    find(id)?.setAttribute("aria-pressed", on);
  }
  document.querySelector(`[name=stage][value="${state.stage}"]`).checked = true;
  document.querySelector(`[name=mode][value="${state.mode}"]`).checked = true;
  for (const id of SLIDERS) find(id).value = Math.round(100 * state[id]);
  find("for-blend").hidden = state.mode !== "blend";
  find("for-tiles").hidden = state.mode !== "checkerboard";
  find("for-edges").hidden = state.mode !== "edges";
  find("zoom").textContent = `${state.zoom.toFixed(1)} ×`;
  find("for-strength").hidden = !state.map;
  find("readout").hidden = !state.cross;
  for (const {slider, through, figure} of planes) {
    if (!slider) continue;
    // To the right is towards the patient's head, front and right, as Page Up is.
    slider.value = size[through] - 1 - state.at[through];
    const text = data.labels ? `${position(times(data.world, state.at), through)} ${data.unit}` : `${+slider.value + 1} of ${size[through]}`;
    slider.setAttribute("aria-valuetext", text);
    figure.querySelector("output").textContent = text;
  }
  draw();
}

let drawing = false, again = false;

/** One drawing at a time; what changes meanwhile is drawn after it. */
async function draw() {
  if (drawing) return void (again = true);
  drawing = true;
  try {
    do {
      again = false;
      await Promise.all([...planes.filter(({canvas}) => canvas.clientWidth).map(paint), describe(), read()]);
    } while (again);
  } finally {
    drawing = false;
  }
  document.documentElement.dataset.drawn = Number(document.documentElement.dataset.drawn ?? 0) + 1;
}

function change(values) {
  Object.assign(state, values);
  show();
}

function move(axis, by) {
  const at = [...state.at];
  at[axis] = Math.min(Math.max(at[axis] + by, 0), size[axis] - 1);
  // What is seen goes with the crosshair.
  const middle = state.middle.map((place, k) => Math.abs((at[k] + 0.5) * spacing[k] - border(k) - length[k] / state.zoom / 2) > length[k] / state.zoom / 2 ? (at[k] + 0.5) * spacing[k] : place);
  change({at, middle});
}

/** Enlarge about a place, in millimetres, which stays where it is seen. */
function zoom(factor, about = state.at.map((index, axis) => (index + 0.5) * spacing[axis])) {
  const next = Math.min(Math.max(state.zoom * factor, 1), 16);
  const middle = about.map((place, axis) => place - (place - border(axis)) * state.zoom / next + length[axis] / next / 2);
  change({zoom: next, middle});
}

function wholeScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (document.fullscreenEnabled) find("viewer").requestFullscreen();
}

for (const input of document.querySelectorAll("[name=stage]")) input.addEventListener("change", () => change({stage: Number(input.value)}));
for (const input of document.querySelectorAll("[name=mode]")) input.addEventListener("change", () => change({mode: input.value}));
for (const id of SLIDERS) find(id).addEventListener("input", (event) => change({[id]: event.target.value / 100}));

const flip = () => change({mode: "blend", blend: state.blend > 0.5 ? 0 : 1});
const actions = {
  b: () => change({mode: "blend"}),
  c: () => change({mode: "checkerboard"}),
  d: () => change({mode: "difference"}),
  e: () => change({mode: "edges"}),
  f: flip,
  g: () => change({grid: !state.grid}),
  j: () => change({map: state.map === "jacobian" ? null : "jacobian"}),
  l: () => data.segmentations.length && change({labels: !state.labels}),
  t: () => change({stage: last + 1}),
  u: () => data.maps.length > 1 && change({map: state.map === "error" ? null : "error"}),
  w: wholeScreen,
  x: () => change({cross: !state.cross}),
  "+": () => zoom(1.5),
  "=": () => zoom(1.5), // the same key without Shift
  "-": () => zoom(1 / 1.5),
  0: () => change({...VIEW, ...GREYS}),
};
for (const [id, key] of [["grid", "g"], ["jacobian", "j"], ["error", "u"], ["cross", "x"], ["flip", "f"], ["labels", "l"], ["whole", "w"], ["nearer", "+"], ["farther", "-"], ["reset", "0"]]) find(id)?.addEventListener("click", actions[key]);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (Object.hasOwn(actions, key)) actions[key]();
  else if (Number(key) >= 1 && Number(key) <= last) change({stage: Number(key)});
});

for (const plane of planes) {
  const {canvas, slider, across, down, through, figure} = plane;
  const under = (event) => {
    const box = canvas.getBoundingClientRect(), place = state.at.map((index, axis) => (index + 0.5) * spacing[axis]);
    place[across] = border(across) + (event.clientX - box.left) / box.width * length[across] / state.zoom;
    place[down] = border(down) + (event.clientY - box.top) / box.height * length[down] / state.zoom;
    return place;
  };
  const place = (event) => {
    const at = under(event).map((along, axis) => Math.min(Math.max(Math.floor(along / spacing[axis]), 0), size[axis] - 1));
    change({at, cross: true});
  };
  const drag = (event) => {
    if (!event.shiftKey) return place(event);
    const middle = [across, down].reduce((moved, axis, k) => {
      const by = [event.movementX, event.movementY][k] / [canvas.clientWidth, canvas.clientHeight][k] * length[axis] / state.zoom;
      const seen = length[axis] / state.zoom;
      moved[axis] = Math.min(Math.max(border(axis) + seen / 2 - by, seen / 2), length[axis] - seen / 2);
      return moved;
    }, [...state.middle]);
    change({middle});
  };
  canvas.addEventListener("click", (event) => event.shiftKey || place(event)); // of a finger: dragging scrolls the page
  canvas.addEventListener("pointerdown", (event) => event.pointerType !== "touch" && event.button === 0 && !event.shiftKey && place(event));
  canvas.addEventListener("pointermove", (event) => event.pointerType !== "touch" && event.buttons === 1 && drag(event));
  canvas.addEventListener("wheel", (event) => {
    const nearer = event.ctrlKey || data.dim === 2;
    if (!event.ctrlKey && document.activeElement !== canvas) return; // else the page scrolls
    event.preventDefault();
    if (nearer) zoom(2 ** (-Math.sign(event.deltaY) / 4), under(event));
    else move(through, Math.sign(event.deltaY));
  }, {passive: false});
  canvas.addEventListener("keydown", (event) => {
    const moves = {ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [down, -1], ArrowDown: [down, 1], PageUp: [through, -1], PageDown: [through, 1]};
    if (!Object.hasOwn(moves, event.key) || (data.dim === 2 && event.key.startsWith("Page"))) return;
    event.preventDefault();
    state.cross = true;
    move(moves[event.key][0], moves[event.key][1] * (event.shiftKey ? 10 : 1));
  });
  if (!slider) continue;
  slider.addEventListener("input", () => move(through, size[through] - 1 - slider.value - state.at[through]));
  const button = figure.querySelector(".enlarge");
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", figure.classList.toggle("large"));
    show();
  });
}

find("whole").hidden = !document.fullscreenEnabled;
document.addEventListener("fullscreenchange", show);
new ResizeObserver(draw).observe(find("viewer"));
window.addEventListener("beforeprint", () => document.querySelectorAll("details:not(.keys)").forEach((details) => (details.open = true)));
show();
