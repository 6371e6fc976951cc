// The planes: slices on canvases, and what is drawn on top of them.

const planes = [...document.querySelectorAll("figure")].map((figure) => {
  const [across, down, through] = [...figure.dataset.plane].map(Number);
  return {figure, across, down, through, canvas: figure.querySelector("canvas"), slider: figure.querySelector("input"), sheets: {}};
});

/** A slice of a layer, or the difference of two, in colours on a canvas of its own; kept until another is wanted. */
async function sheet(plane, role, colours, layers) {
  const volumes = await Promise.all(layers.map(levels));
  const shape = deep(layers[0].shape, 1);
  const slice = Math.floor((state.at[plane.through] + 0.5) / size[plane.through] * shape[plane.through]);
  const key = [slice, ...layers.map((layer) => layer.name)].join();
  if (plane.sheets[role]?.key === key) return plane.sheets[role].canvas;
  const [wide, high] = [shape[plane.across], shape[plane.down]];
  const stride = [1, shape[0], shape[0] * shape[1]];
  const canvas = plane.sheets[role]?.canvas ?? document.createElement("canvas");
  [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d");
  const image = context.createImageData(wide, high);
  const pixels = new Uint32Array(image.data.buffer);
  const [first, second] = volumes;
  for (let y = 0, to = 0; y < high; y++) {
    for (let x = 0; x < wide; x++, to++) {
      const from = slice * stride[plane.through] + x * stride[plane.across] + y * stride[plane.down];
      pixels[to] = colours[second ? (second[from] - first[from] + 255) >> 1 : first[from]];
    }
  }
  context.putImageData(image, 0, 0);
  plane.sheets[role] = {key, canvas};
  return canvas;
}

async function paint(plane) {
  const [fixed, moved] = [data.pictures[0], data.pictures[state.stage]];
  const map = data.maps.find((layer) => layer.name === state.map);
  const sheets = await Promise.all([
    state.mode === "difference" ? sheet(plane, "difference", PIXELS.difference, [fixed, moved]) : sheet(plane, "fixed", PIXELS.grey, [fixed]),
    sheet(plane, "moved", PIXELS.grey, [moved]),
    map && sheet(plane, "map", PIXELS[map.name], [map]),
  ]);
  const canvas = plane.canvas, ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const lay = (picture) => context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  lay(sheets[0]);
  if (state.mode === "blend") {
    context.globalAlpha = state.blend;
    lay(sheets[1]);
  } else if (state.mode === "checkerboard") {
    context.save();
    context.clip(board(plane));
    lay(sheets[1]);
    context.restore();
  }
  context.globalAlpha = state.strength;
  if (map) lay(sheets[2]);
  context.globalAlpha = 1;
  if (state.grid) drawGrid(context, plane, ratio);
  if (state.cross) drawCross(context, plane, ratio);
}

/** Every other field of a checkerboard of equal millimetres. */
function board(plane) {
  const path = new Path2D();
  const {canvas, across, down} = plane;
  const scale = canvas.width / length[across];
  const side = Math.max(...length) / (32 - 28 * state.tiles) * scale;
  for (let y = 0; y * side < canvas.height; y++) {
    for (let x = y % 2; x * side < canvas.width; x += 2) path.rect(x * side, y * side, side, side);
  }
  return path;
}

/** Millimetres between lines, so that they stand some 30 pixels apart. */
function stepOfGrid() {
  const plane = planes.find(({canvas}) => canvas.clientWidth) ?? planes[0];
  const wanted = 30 * length[plane.across] / (plane.canvas.clientWidth || 300);
  return [1, 2, 5, 10, 20, 50, 100].find((nice) => nice >= wanted) ?? wanted;
}

/** Straight lines drawn on the moving image, as the final field brings them to the fixed one. */
function drawGrid(context, plane, ratio) {
  const {canvas, across, down, through} = plane;
  const cell = 8 * ratio;
  const [columns, rows] = [canvas.width, canvas.height].map((pixels) => Math.min(160, Math.ceil(pixels / cell)) + 1);
  const values = [new Float32Array(columns * rows), new Float32Array(columns * rows)];
  const place = [0, 0, 0];
  place[through] = (state.at[through] + 0.5) / size[through];
  for (let y = 0, i = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, i++) {
      [place[across], place[down]] = [x / (columns - 1), y / (rows - 1)];
      const shift = displacement(place);
      values[0][i] = place[across] * length[across] + shift[across];
      values[1][i] = place[down] * length[down] + shift[down];
    }
  }
  const path = new Path2D();
  const scale = [canvas.width / (columns - 1), canvas.height / (rows - 1)];
  for (const component of values) contours(path, component, columns, rows, stepOfGrid(), scale);
  for (const [width, colour] of [[3, "rgba(0,0,0,.5)"], [1.2, "#ffdc5e"]]) {
    [context.lineWidth, context.strokeStyle] = [width * ratio, colour];
    context.stroke(path);
  }
}

/** Lines of equal value at multiples of a step: through each half of a lattice's cells they are straight. */
function contours(path, values, columns, rows, step, scale) {
  for (let y = 0; y + 1 < rows; y++) {
    for (let x = 0; x + 1 < columns; x++) {
      const at = y * columns + x;
      const [a, b, c, d] = [values[at], values[at + 1], values[at + columns], values[at + columns + 1]];
      if (Math.ceil(Math.min(a, b, c, d) / step) * step >= Math.max(a, b, c, d)) continue;
      const corner = [[x, y], [x + 1, y], [x, y + 1], [x + 1, y + 1]];
      for (const half of [[0, 1, 2], [1, 3, 2]]) {
        const three = half.map((k) => [a, b, c, d][k]);
        for (let n = Math.ceil(Math.min(...three) / step); n * step < Math.max(...three); n++) {
          const ends = [];
          for (const [p, q] of [[0, 1], [1, 2], [2, 0]]) {
            const [here, there] = [three[p] - n * step, three[q] - n * step];
            if (here < 0 === there < 0) continue;
            const [from, to] = [corner[half[p]], corner[half[q]]];
            ends.push([0, 1].map((k) => (from[k] + (to[k] - from[k]) * here / (here - there)) * scale[k]));
          }
          if (ends.length === 2) {
            path.moveTo(...ends[0]);
            path.lineTo(...ends[1]);
          }
        }
      }
    }
  }
}

function drawCross(context, plane, ratio) {
  const {canvas, across, down} = plane;
  const x = (state.at[across] + 0.5) / size[across] * canvas.width;
  const y = (state.at[down] + 0.5) / size[down] * canvas.height;
  const gap = 7 * ratio;
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }
  for (const [width, colour] of [[2.5, "rgba(0,0,0,.5)"], [1, "#7fe3ff"]]) {
    [context.lineWidth, context.strokeStyle] = [width * ratio, colour];
    context.stroke(path);
  }
}
