// The planes: slices on canvases, and what is drawn on top of them.

const planes = [...document.querySelectorAll("figure")].map((figure) => {
  const [across, down, through] = [...figure.dataset.plane].map(Number);
  return {figure, across, down, through, canvas: figure.querySelector("canvas"), slider: figure.querySelector("input"), kept: {}};
});

/** Where a plane's canvas looks: pixels of a millimetre, and the millimetres at its left and upper border. */
function frame({canvas, across, down}) {
  return {scale: canvas.width / length[across] * state.zoom, left: border(across), top: border(down)};
}

/** Millimetres at the beginning of what is seen of an axis. */
function border(axis) {
  const seen = length[axis] / state.zoom;
  return Math.min(Math.max(state.middle[axis] - seen / 2, 0), length[axis] - seen);
}

/** A path in millimetres as a plane's canvas shows it. */
function framed(plane, path) {
  const {scale, left, top} = frame(plane);
  const shown = new Path2D();
  shown.addPath(path, new DOMMatrix([scale, 0, 0, scale, -left * scale, -top * scale]));
  return shown;
}

/** A slice of a layer: the values, first axis fastest, how many across and down, and which it is. */
async function slice(plane, layer) {
  const all = await levels(layer);
  const shape = deep(layer.shape, 1);
  const number = Math.floor((state.at[plane.through] + 0.5) / size[plane.through] * shape[plane.through]);
  const [wide, high] = [shape[plane.across], shape[plane.down]];
  const stride = [1, shape[0], shape[0] * shape[1]];
  const values = new Uint8Array(wide * high);
  for (let y = 0, to = 0; y < high; y++) {
    for (let x = 0; x < wide; x++, to++) values[to] = all[number * stride[plane.through] + x * stride[plane.across] + y * stride[plane.down]];
  }
  return {values, wide, high, number};
}

/** What is made of a slice, kept until it is made of something else. */
async function kept(plane, role, key, make) {
  if (plane.kept[role]?.key !== key) plane.kept[role] = {key, made: await make(plane.kept[role]?.made)};
  return plane.kept[role].made;
}

/** A slice of a layer, or the difference of two, in colours on a canvas of its own. */
function sheet(plane, role, colours, layers) {
  const key = [state.at[plane.through], colours.key, ...layers.map((layer) => layer.name)].join();
  return kept(plane, role, key, async (canvas = document.createElement("canvas")) => {
    const [first, second] = await Promise.all(layers.map((layer) => slice(plane, layer)));
    [canvas.width, canvas.height] = [first.wide, first.high];
    const context = canvas.getContext("2d");
    const image = context.createImageData(first.wide, first.high);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) {
      pixels[i] = colours.pixels[second ? (second.values[i] - first.values[i] + 255) >> 1 : first.values[i]];
    }
    context.putImageData(image, 0, 0);
    return canvas;
  });
}

/** From the middle of a slice's pixels to millimetres. */
function inMillimetres({across, down}, {wide, high}) {
  return (x, y) => [(x + 0.5) * length[across] / wide, (y + 0.5) * length[down] / high];
}

function edgesOf(plane, layer) {
  return kept(plane, "edges", [state.at[plane.through], state.edges].join(), async () => {
    const found = await slice(plane, layer);
    const sides = [length[plane.across] / found.wide, length[plane.down] / found.high];
    return edges(found.values, found.wide, found.high, sides, 2 + 40 * (1 - state.edges) ** 2, inMillimetres(plane, found));
  });
}

function bordersOf(plane, layer) {
  return kept(plane, `borders of ${layer.name}`, state.at[plane.through], async () => {
    const found = await slice(plane, layer);
    return borders(found.values, found.wide, found.high, inMillimetres(plane, found));
  });
}

async function paint(plane) {
  const [fixed, moved] = [data.pictures[0], data.pictures[state.stage]];
  const map = data.maps.find((layer) => layer.name === state.map);
  const [still, moving] = [greys(state.fixedBrightness, state.fixedContrast), greys(state.movingBrightness, state.movingContrast)];
  const sheets = await Promise.all([
    state.mode === "difference" ? sheet(plane, "difference", PIXELS.difference, [fixed, moved]) : sheet(plane, "fixed", still, [fixed]),
    sheet(plane, "moved", moving, [moved]),
    map && sheet(plane, "map", PIXELS[map.name], [map]),
  ]);
  const lines = state.mode === "edges" ? [[await edgesOf(plane, fixed), EDGES]] : [];
  for (const layer of state.labels ? data.segmentations : []) {
    for (const [label, path] of await bordersOf(plane, layer)) lines.push([path, colourOf(label)]);
  }
  const canvas = plane.canvas, ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const {scale, left, top} = frame(plane);
  const lay = (picture) => context.drawImage(picture, -left * scale, -top * scale, length[plane.across] * scale, length[plane.down] * scale);
  lay(sheets[0]);
  if (state.mode === "blend" || state.mode === "edges") {
    context.globalAlpha = state.mode === "edges" ? 1 : state.blend;
    lay(sheets[1]);
  } else if (state.mode === "checkerboard") {
    context.save();
    context.clip(framed(plane, board(plane)));
    lay(sheets[1]);
    context.restore();
  }
  context.globalAlpha = state.strength;
  if (map) lay(sheets[2]);
  context.globalAlpha = 1;
  for (const [path, colour] of lines) stroke(context, framed(plane, path), [[1.3, colour]], ratio);
  if (state.grid) drawGrid(context, plane, ratio);
  if (state.cross) drawCross(context, plane, ratio);
}

function stroke(context, path, widths, ratio) {
  for (const [width, colour] of widths) {
    [context.lineWidth, context.strokeStyle] = [width * ratio, colour];
    context.stroke(path);
  }
}

/** Every other field of a checkerboard of equal millimetres. */
function board({across, down}) {
  const path = new Path2D();
  const side = Math.max(...length) / (32 - 28 * state.tiles);
  for (let y = 0; y * side < length[down]; y++) {
    for (let x = y % 2; x * side < length[across]; x += 2) path.rect(x * side, y * side, side, side);
  }
  return path;
}

/** Millimetres between lines, so that they stand some 30 pixels apart. */
function stepOfGrid() {
  const plane = planes.find(({canvas}) => canvas.clientWidth) ?? planes[0];
  const wanted = 30 * length[plane.across] / state.zoom / (plane.canvas.clientWidth || 300);
  return [0.5, 1, 2, 5, 10, 20, 50, 100].find((nice) => nice >= wanted) ?? wanted;
}

/** Straight lines drawn on the moving image, as the final field brings them to the fixed one. */
function drawGrid(context, plane, ratio) {
  const {canvas, across, down, through} = plane;
  const cell = 8 * ratio;
  const [columns, rows] = [canvas.width, canvas.height].map((pixels) => Math.min(160, Math.ceil(pixels / cell)) + 1);
  const values = [new Float32Array(columns * rows), new Float32Array(columns * rows)];
  const {left, top} = frame(plane);
  const seen = [length[across], length[down]].map((side) => side / state.zoom);
  const place = (x, y) => [left + x / (columns - 1) * seen[0], top + y / (rows - 1) * seen[1]];
  const fractions = [0, 0, 0];
  fractions[through] = (state.at[through] + 0.5) / size[through];
  for (let y = 0, i = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, i++) {
      const [right, below] = place(x, y);
      [fractions[across], fractions[down]] = [right / length[across], below / length[down]];
      const shift = displacement(fractions);
      values[0][i] = right + shift[across];
      values[1][i] = below + shift[down];
    }
  }
  const path = new Path2D();
  for (const component of values) contours(path, component, columns, rows, stepOfGrid(), place);
  stroke(context, framed(plane, path), [[3, "rgba(0,0,0,.5)"], [1.2, "#ffdc5e"]], ratio);
}

function drawCross(context, plane, ratio) {
  const {canvas, across, down} = plane;
  const {scale, left, top} = frame(plane);
  const x = ((state.at[across] + 0.5) * spacing[across] - left) * scale;
  const y = ((state.at[down] + 0.5) * spacing[down] - top) * scale;
  const gap = 7 * ratio;
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }
  stroke(context, path, [[2.5, "rgba(0,0,0,.5)"], [1, "#7fe3ff"]], ratio);
}
