// Images as arrays of grey levels, and the square grid of the networks.
//
// An image is {width, height, data}: rows from the top, floats. The networks see axes that run to the patient's right and
// front; a PNG hangs as a radiograph, x to the left and y to the back. So both axes are reversed: node (i, j) of a grid of
// n nodes lies at column n - 1 - i and row n - 1 - j of the square in which an image lies centred, its longer side from
// border to border.

export const KEPT = [0.5, 99.5]; // percentiles that become 0 and 1
const TILES = 8, LINES = 24;

export async function readImage(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const data = Float32Array.from({ length: width * height }, (_, k) => (pixels[4 * k] + pixels[4 * k + 1] + pixels[4 * k + 2]) / 3);
  return { width, height, data };
}

// Intensities in [0, 1] between two percentiles; where these coincide, between the smallest and the largest.
export function scaled(image) {
  const sorted = Float32Array.from(image.data).sort();
  const at = (percent) => {
    const place = (percent / 100) * (sorted.length - 1), low = Math.floor(place);
    return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
  };
  let [low, high] = KEPT.map(at);
  if (!(high > low)) [low, high] = [sorted[0], sorted[sorted.length - 1]];
  if (!(high > low)) throw new Error("an image of one grey level cannot be registered");
  return { ...image, data: image.data.map((value) => Math.min(1, Math.max(0, (value - low) / (high - low)))) };
}

// Pixels of an image between neighbouring nodes of a grid.
const ratioOf = (image, size) => Math.max(image.width, image.height) / size;

// Where a node of the grid lies in an image, in pixels.
function pixelOf(i, j, image, size) {
  const ratio = ratioOf(image, size), middle = (size - 1) / 2;
  return [(middle - i) * ratio + (image.width - 1) / 2, (middle - j) * ratio + (image.height - 1) / 2];
}

// Where a pixel lies on the grid, in nodes.
function nodeOf(x, y, image, size) {
  const ratio = ratioOf(image, size), middle = (size - 1) / 2;
  return [middle - (x - (image.width - 1) / 2) / ratio, middle - (y - (image.height - 1) / 2) / ratio];
}

// Linear between pixels, the border's value to half a pixel beyond, 0 from there.
function sample({ width, height, data }, x, y) {
  if (x < -0.5 || y < -0.5 || x >= width - 0.5 || y >= height - 0.5) return 0;
  x = Math.min(Math.max(x, 0), width - 1);
  y = Math.min(Math.max(y, 0), height - 1);
  const left = Math.min(Math.floor(x), Math.max(width - 2, 0)), top = Math.min(Math.floor(y), Math.max(height - 2, 0));
  const right = Math.min(left + 1, width - 1), bottom = Math.min(top + 1, height - 1), u = x - left, v = y - top;
  const above = data[top * width + left] * (1 - u) + data[top * width + right] * u;
  return above * (1 - v) + (data[bottom * width + left] * (1 - u) + data[bottom * width + right] * u) * v;
}

// Before an image goes to a coarser grid: a Gaussian that makes of a pixel about a box of `ratio` pixels.
function blurred(image, ratio) {
  const sigma = Math.sqrt(Math.max(ratio * ratio - 1, 0) / 12);
  if (sigma <= 0.2) return image;
  const reach = Math.floor(4 * sigma + 0.5);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-((k - reach) ** 2) / (2 * sigma * sigma)));
  const total = kernel.reduce((sum, weight) => sum + weight, 0);
  const along = (data, count, step, lines, across) => {
    const made = new Float32Array(data.length);
    for (let line = 0; line < lines; line++)
      for (let k = 0; k < count; k++) {
        let sum = 0;
        for (let o = -reach; o <= reach; o++) sum += kernel[o + reach] * data[line * across + Math.min(Math.max(k + o, 0), count - 1) * step];
        made[line * across + k * step] = sum / total;
      }
    return made;
  };
  const { width, height } = image;
  return { ...image, data: along(along(image.data, width, 1, height, width), height, width, width, 1) };
}

// An image on the grid, as the networks take it: node (i, j) at i * size + j.
export function onGrid(image, size) {
  const source = blurred(image, ratioOf(image, size)), made = new Float32Array(size * size);
  for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) made[i * size + j] = sample(source, ...pixelOf(i, j, image, size));
  return made;
}

// A component or picture of the grid at a node between nodes, the border's value held beyond.
function between(values, offset, size, i, j) {
  const image = { width: size, height: size, data: values.subarray(offset, offset + size * size) };
  return sample(image, Math.min(Math.max(j, 0), size - 1), Math.min(Math.max(i, 0), size - 1));
}

// Where each pixel of the fixed image looks in the moving image: x and y, in pixels, one after the other.
export function lookup(displacement, moving, fixed, size) {
  const count = fixed.width * fixed.height, made = new Float32Array(2 * count);
  for (let y = 0, k = 0; y < fixed.height; y++)
    for (let x = 0; x < fixed.width; x++, k++) {
      const [i, j] = nodeOf(x, y, fixed, size);
      const there = [0, 1].map((axis) => between(displacement, axis * size * size, size, i, j));
      [made[k], made[count + k]] = pixelOf(i + there[0], j + there[1], moving, size);
    }
  return made;
}

// The moving image on the fixed image's pixels, sampled once.
export function move(moving, fixed, places) {
  const count = fixed.width * fixed.height;
  return { width: fixed.width, height: fixed.height, data: Float32Array.from({ length: count }, (_, k) => sample(moving, places[k], places[count + k])) };
}

// A picture of the grid on the fixed image's pixels.
export function fromGrid(values, fixed, size) {
  const data = Float32Array.from({ length: fixed.width * fixed.height }, (_, k) =>
    between(values, 0, size, ...nodeOf(k % fixed.width, Math.floor(k / fixed.width), fixed, size)));
  return { width: fixed.width, height: fixed.height, data };
}

export function checkerboard(first, second) {
  const side = Math.max(1, Math.floor(Math.max(first.width, first.height) / TILES));
  const odd = (k) => (Math.floor((k % first.width) / side) + Math.floor(Math.floor(k / first.width) / side)) % 2;
  return { ...first, data: first.data.map((value, k) => (odd(k) ? second.data[k] : value)) };
}

// How bright the lines of the moving image's pixels are on the fixed image: 1 on a line, 0 from a pixel away.
export function gridLines(places, moving, fixed) {
  const count = fixed.width * fixed.height, step = Math.max(moving.width, moving.height) / LINES;
  const apart = Math.max(moving.width, moving.height) / Math.max(fixed.width, fixed.height);
  const near = (place) => Math.max(0, 1 - (step * Math.abs(((((place / step + 0.5) % 1) + 1) % 1) - 0.5)) / apart);
  return Float32Array.from({ length: count }, (_, k) => Math.max(near(places[k]), near(places[count + k])));
}

// Draw an image of [0, 1], and lines upon it in yellow.
export function draw(canvas, image, lines) {
  [canvas.width, canvas.height] = [image.width, image.height];
  const pixels = new ImageData(image.width, image.height);
  image.data.forEach((value, k) => {
    const grey = 255 * Math.min(1, Math.max(0, value)), line = lines ? 110 * lines[k] : 0;
    pixels.data.set([grey + line, grey + line, grey, 255], 4 * k);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
