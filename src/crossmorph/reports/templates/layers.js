// What the page holds: its state, colours, pictures and the field.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const last = data.pictures.length - 2; // the result; the translation comes after it
const deep = (values, filler) => [...values, filler].slice(0, 3); // a slice is a volume of one
const size = deep(data.shape, 1);
const spacing = deep(data.spacing, 1);
const length = size.map((count, axis) => count * spacing[axis]);
const VIEW = {zoom: 1, middle: length.map((side) => side / 2)}; // the whole image
const GREYS = {fixedBrightness: 0.5, fixedContrast: 0.5, movingBrightness: 0.5, movingContrast: 0.5};
const state = {
  stage: last, mode: "checkerboard", blend: 0.5, tiles: 0.75, edges: 0.6, strength: 0.75, map: null, grid: false, labels: false,
  cross: data.dim === 3, at: [...data.start, 0].slice(0, 3), ...VIEW, ...GREYS,
};

// Blue and orange differ for every eye; black between them, as the film around is.
const DIFFERENCE = ramp([[110, 190, 255], [20, 105, 200], [0, 0, 0], [205, 95, 0], [255, 195, 100]]);
const JACOBIAN = ramp([[90, 170, 255, 255], [60, 130, 230, 170], [255, 255, 255, 0], [235, 130, 30, 170], [255, 170, 60, 255]]);
// Viridis (matplotlib), fainter where the expected error is small; unlike cividis it has no grey, which anatomy has.
const ERROR = ramp([[68, 1, 84, 40], [65, 68, 135, 110], [42, 120, 142, 165], [34, 168, 132, 205], [122, 209, 81, 235], [253, 231, 37, 255]]);
// Of a map, level 0 is not finite, level 1 background.
const CLEAR = [0, 0, 0, 0];
const FOLD = [255, 0, 200, 255];
const EDGES = "#ff6347";
const PIXELS = {
  difference: {key: "difference", pixels: packed(DIFFERENCE)},
  jacobian: {key: "jacobian", pixels: packed([FOLD, CLEAR, ...JACOBIAN.slice(2)])},
  error: {key: "error", pixels: packed([CLEAR, CLEAR, ...ERROR.slice(2)])},
};

/** Greys of a window and its level: levels that are black and white move together, or apart. */
function greys(brightness, contrast) {
  const centre = 255 * (1 - brightness), slope = 2 ** (6 * contrast - 3);
  const grey = (level) => (level - centre) * slope + 127.5; // the array clips
  return {key: `${brightness} ${contrast}`, pixels: packed(Array.from({length: 256}, (_, level) => [grey(level), grey(level), grey(level), 255]))};
}

/** A colour for each label: neighbours in number are far apart in hue. */
function colourOf(label) {
  return `hsl(${(label * 137.5 + 60) % 360} 95% ${label % 2 ? 62 : 72}%)`;
}

/** 256 colours through evenly spaced ones. */
function ramp(stops) {
  return Array.from({length: 256}, (_, level) => {
    const place = level / 255 * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    return [0, 1, 2, 3].map((k) => {
      const [a, b] = [stops[below][k] ?? 255, stops[below + 1][k] ?? 255];
      return a + (b - a) * (place - below);
    });
  });
}

/** Colours as pixels of a canvas lie in memory. */
function packed(colours) {
  return new Uint32Array(Uint8ClampedArray.from(colours.flat()).buffer);
}

const decoded = new Map();

/** The levels of a layer, first axis fastest; decoded when first wanted. */
function levels(layer) {
  if (!decoded.has(layer)) decoded.set(layer, decode(layer));
  return decoded.get(layer);
}

async function decode(layer) {
  const picture = new Image();
  picture.src = layer.source;
  await picture.decode();
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [picture.naturalWidth, picture.naturalHeight];
  const context = sheet.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0);
  const [across, down, count] = deep(layer.shape, 1);
  const columns = Math.ceil(Math.sqrt(count));
  const volume = new Uint8Array(across * down * count);
  for (let slice = 0; slice < count; slice++) {
    const [left, top] = [slice % columns * across, Math.floor(slice / columns) * down];
    const pixels = context.getImageData(left, top, across, down).data;
    const offset = slice * across * down;
    for (let i = 0; i < across * down; i++) volume[offset + i] = pixels[4 * i];
  }
  return volume;
}

function decodeField() {
  const text = atob(data.field.source);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({length: bytes.length / 2}, (_, i) => view.getInt16(2 * i, true) * data.field.scale);
}

const field = decodeField();
const nodes = deep(data.field.shape, 1);
const step = [1, nodes[0], nodes[0] * nodes[1]];

/** The displacement along the axes at a place given as fractions of the field of view; linear between nodes. */
function displacement(fractions) {
  const low = [], part = [];
  for (let axis = 0; axis < 3; axis++) {
    const node = Math.min(Math.max(fractions[axis] * nodes[axis] - 0.5, 0), nodes[axis] - 1);
    low[axis] = Math.min(Math.floor(node), Math.max(nodes[axis] - 2, 0));
    part[axis] = node - low[axis];
  }
  const total = nodes[0] * nodes[1] * nodes[2], result = [0, 0, 0];
  for (let corner = 0; corner < 8; corner++) {
    let weight = 1, index = 0;
    for (let axis = 0; axis < 3; axis++) {
      const upper = corner >> axis & 1;
      weight *= upper ? part[axis] : 1 - part[axis];
      index += (low[axis] + upper) * step[axis];
    }
    if (weight === 0) continue;
    for (let axis = 0; axis < data.dim; axis++) result[axis] += weight * field[axis * total + index];
  }
  return result;
}
