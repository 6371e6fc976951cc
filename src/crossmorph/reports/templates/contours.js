// Lines through values on a lattice: edges of the fixed image, borders of labels, the warped grid.

/**
 * Lines of equal value at multiples of a step: through each half of a lattice's cells they are straight.
 * `place`: from columns and rows to where they are drawn; `wanted`: whether a cell is, by the index of its first corner.
 */
function contours(path, values, columns, rows, step, place, wanted = () => true) {
  for (let y = 0; y + 1 < rows; y++) {
    for (let x = 0; x + 1 < columns; x++) {
      const at = y * columns + x;
      const [a, b, c, d] = [values[at], values[at + 1], values[at + columns], values[at + columns + 1]];
      if (Math.ceil(Math.min(a, b, c, d) / step) * step >= Math.max(a, b, c, d) || !wanted(at)) continue;
      const corner = [[x, y], [x + 1, y], [x, y + 1], [x + 1, y + 1]];
      for (const half of [[0, 1, 2], [1, 3, 2]]) {
        const three = half.map((k) => [a, b, c, d][k]);
        for (let n = Math.ceil(Math.min(...three) / step); n * step < Math.max(...three); n++) {
          const ends = [];
          for (const [p, q] of [[0, 1], [1, 2], [2, 0]]) {
            const [here, there] = [three[p] - n * step, three[q] - n * step];
            if (here < 0 === there < 0) continue;
            const [from, to] = [corner[half[p]], corner[half[q]]];
            ends.push(place(...[0, 1].map((k) => from[k] + (to[k] - from[k]) * here / (here - there))));
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

/** Weights of a Gaussian, from its centre on. */
function bell(sigma) {
  const weights = Array.from({length: Math.ceil(3 * sigma) + 1}, (_, i) => Math.exp(-i * i / (2 * sigma * sigma)));
  const total = 2 * weights.reduce((sum, weight) => sum + weight) - weights[0];
  return weights.map((weight) => weight / total);
}

/** A slice smoothed along one of its axes; beyond its border it goes on as there. */
function smoothed(values, columns, rows, along, sigma) {
  if (sigma < 0.3) return values;
  const weights = bell(sigma), result = new Float32Array(values.length);
  const [count, stride] = along ? [rows, columns] : [columns, 1];
  for (let at = 0; at < values.length; at++) {
    const here = along ? Math.floor(at / columns) : at % columns, first = at - here * stride;
    let sum = weights[0] * values[at];
    for (let i = 1; i < weights.length; i++) {
      sum += weights[i] * (values[first + Math.max(here - i, 0) * stride] + values[first + Math.min(here + i, count - 1) * stride]);
    }
    result[at] = sum;
  }
  return result;
}

/**
 * Edges of a slice, where the Laplacian of its smoothed levels changes sign and they are steep (Marr and Hildreth 1980).
 * `sides`: of a pixel in millimetres; `least`: levels over the width of the smoothing that an edge has; `place`: as of contours.
 */
function edges(levels, columns, rows, sides, least, place) {
  const width = Math.max(Math.min(...sides), Math.max(columns * sides[0], rows * sides[1]) / 200);
  let values = Float32Array.from(levels);
  for (const along of [0, 1]) values = smoothed(values, columns, rows, along, width / sides[along]);
  const laplacian = new Float32Array(values.length), slope = new Float32Array(values.length);
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, at++) {
      const here = values[at];
      const [left, right] = [values[at - (x > 0)], values[at + (x + 1 < columns)]];
      const [up, down] = [values[y > 0 ? at - columns : at], values[y + 1 < rows ? at + columns : at]];
      laplacian[at] = (left + right - 2 * here) / sides[0] ** 2 + (up + down - 2 * here) / sides[1] ** 2;
      slope[at] = Math.hypot((right - left) / (2 * sides[0]), (down - up) / (2 * sides[1])) * width;
    }
  }
  const path = new Path2D();
  contours(path, laplacian, columns, rows, 1e9, place, (at) => slope[at] > least);
  return path;
}

/** Borders of the labels of a slice, by label: half-way between its pixels and those of others. */
function borders(labels, columns, rows, place) {
  const boxes = new Map();
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, at++) {
      const label = labels[at];
      if (!label) continue;
      const box = boxes.get(label) ?? [x, y, x, y];
      boxes.set(label, [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)]);
    }
  }
  const found = new Map();
  for (const [label, [left, top, right, bottom]] of boxes) {
    const [wide, high] = [right - left + 3, bottom - top + 3]; // a pixel more on all sides, which is another's
    const inside = new Float32Array(wide * high).fill(-1);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) if (labels[y * columns + x] === label) inside[(y - top + 1) * wide + x - left + 1] = 1;
    }
    const path = new Path2D();
    contours(path, inside, wide, high, 1e9, (x, y) => place(x + left - 1, y + top - 1));
    found.set(label, path);
  }
  return found;
}
