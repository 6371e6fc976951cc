// The page: two files in, pictures out. The networks run in the browser, by onnxruntime-web.
import * as ort from "./ort.wasm.min.mjs";
import { checkerboard, draw, fromGrid, gridLines, lookup, move, onGrid, readImage, scaled } from "./images.js";

const find = (id) => document.getElementById(id);
ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
const loading = ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });

function say(text, bad = false) {
  find("state").textContent = text;
  find("state").className = bad ? "bad" : "";
}

function ready() {
  find("start").disabled = !(find("moving").files.length && find("fixed").files.length);
}

// Register two images; smoothness from 0 (detailed) to 1 (stiff).
export async function register(moving, fixed, smoothness) {
  const session = await loading, [, , size] = session.inputMetadata[0].shape;
  const images = { moving: onGrid(scaled(moving), size), fixed: onGrid(scaled(fixed), size) };
  const feeds = { smoothness: new ort.Tensor("float32", [smoothness], [1]) };
  for (const [name, data] of Object.entries(images)) feeds[name] = new ort.Tensor("float32", data, [1, 1, size, size]);
  const results = await session.run(feeds, ["displacement", "translated", "information"]);
  const [displacement, translated, information] = ["displacement", "translated", "information"].map((name) => results[name].data);
  return { size, images, displacement, translated, information, places: lookup(displacement, moving, fixed, size) };
}

function show(moving, fixed, found) {
  const [still, given] = [scaled(fixed), scaled(moving)];
  const moved = move(given, fixed, found.places);
  draw(find("as-given"), given);
  draw(find("still"), still);
  draw(find("moved"), moved);
  draw(find("checkerboard"), checkerboard(moved, still));
  draw(find("translated"), fromGrid(found.translated, fixed, found.size));
  draw(find("grid"), moved, gridLines(found.places, moving, fixed));
  find("save").href = find("moved").toDataURL("image/png");
  find("pictures").hidden = false;
}

async function start(event) {
  event.preventDefault();
  find("start").disabled = true;
  say("Registering...");
  await new Promise((done) => setTimeout(done, 30)); // until that is drawn
  try {
    const [moving, fixed] = await Promise.all(["moving", "fixed"].map((id) => readImage(find(id).files[0])));
    const begin = performance.now();
    const found = await register(moving, fixed, Number(find("smoothness").value));
    show(moving, fixed, found);
    const [before, , after] = found.information, seconds = ((performance.now() - begin) / 1000).toFixed(1);
    const numbers = `mutual information ${before.toFixed(3)} nats before, ${after.toFixed(3)} after; ${seconds} s`;
    if (after > before) say(`Registered: ${numbers}. Look at the checkerboard: edges should continue from tile to tile.`);
    else say(`FAILED: the images agree no more than before (${numbers}). Do not use the result.`, true);
    window.found = found;
  } catch (error) {
    say(`Not registered: ${error.message}`, true);
  }
  ready();
}

find("form").addEventListener("submit", start);
for (const id of ["moving", "fixed"]) find(id).addEventListener("change", ready);
find("smoothness").addEventListener("input", () => (find("shown").textContent = find("smoothness").value));
loading.then(
  () => { say("Choose two images."); ready(); },
  (error) => say(`The networks cannot be loaded: ${error.message}`, true),
);
