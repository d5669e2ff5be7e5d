// The page: chooses images, starts and stops sampling, draws maps and numbers.

import { Sampler } from "./sampling.js";

const LONGEST_SIDE = 128;
const ZOOM = 4; // canvas pixels per pixel of a map
const CLASSES = ["none", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const COLOURS = [
  null, "#4e9fd8", "#f2a33a", "#3fae6b", "#e05a4e", "#a67fd4",
  "#b0795a", "#ee86bd", "#e6d54a", "#35c4c4", "#9bd13f",
];
// Anchors of a scale from dark to light, evenly spaced, of rising lightness.
const SCALE = [[8, 8, 32], [68, 15, 104], [153, 38, 108], [222, 73, 72], [250, 143, 45], [250, 236, 145]];
const MAPS = {
  predictiveEntropy: {
    top: 2,
    meaning: "Predictive entropy: of the mean prediction; the sum of the other two.",
  },
  expectedEntropy: {
    top: 2,
    meaning: "Expected entropy: what each sampled network finds ambiguous by itself.",
  },
  mutualInformation: {
    top: 0.6,
    meaning: "Mutual information: what the sampled networks disagree about.",
  },
};

const element = (id) => document.getElementById(id);
const state = { sampler: null, image: null, name: "", statistics: null, maps: null, run: 0 };

// ---------------------------------------------------------------- images

/** Return grey values of a picture, its longest side 128, both sides multiples of 8. */
async function decoded(blob) {
  const bitmap = await createImageBitmap(blob).catch(() => {
    throw new Error("this file is no image that the browser can read");
  });
  const factor = LONGEST_SIDE / Math.max(bitmap.width, bitmap.height);
  const side = (length) => Math.max(16, Math.round((length * factor) / 8) * 8);
  const [width, height] = [side(bitmap.width), side(bitmap.height)];
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind transparent pictures
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Float32Array(width * height);
  for (let at = 0; at < pixels.length; at++) {
    const [red, green, blue] = data.subarray(4 * at, 4 * at + 3);
    pixels[at] = (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
  }
  return { pixels, width, height };
}

/** Show an image and sample it; `read` gives its file, `chosen` is what was clicked. */
async function choose(read, name, chosen) {
  const mine = ++state.run; // ends the run of another image
  element("run").disabled = true;
  const image = await decoded(await read());
  if (mine !== state.run) return;
  Object.assign(state, { image, name });
  for (const other of document.querySelectorAll(".images > *")) {
    other.classList.toggle("chosen", other === chosen);
    if (other.matches("button")) other.setAttribute("aria-pressed", other === chosen);
  }
  paint(element("input"), image, (at) => Array(3).fill(255 * image.pixels[at]));
  await run();
}

function chooseExample(button) {
  const name = button.dataset.image;
  return choose(async () => {
    const response = await fetch(`images/${name}.png`);
    if (!response.ok) throw new Error(`images/${name}.png is not there (${response.status})`);
    return response.blob();
  }, name, button);
}

// ---------------------------------------------------------------- sampling

async function run() {
  if (!state.sampler || !state.image) return;
  const mine = ++state.run; // a newer run ends this one
  const samples = Number(element("samples").value);
  const rate = Number(element("rate").value);
  const { image } = state;
  setRunning(true);
  const start = performance.now();
  let painted = -Infinity;
  try {
    for await (const statistics of state.sampler.draw(image, samples, rate)) {
      if (mine !== state.run) return;
      const now = performance.now();
      const last = state.stopping || statistics.samples === samples;
      if (last || now - painted > 100) {
        painted = now;
        show(statistics, { image, rate, milliseconds: (now - start) / statistics.samples });
        element("progress").value = statistics.samples / samples;
        say(`${statistics.samples} of ${samples} samples…`);
      }
      if (last) {
        const count = `${statistics.samples} samples`;
        say(state.stopping ? `Stopped after ${count}.` : `${count} at rate ${rate.toFixed(2)}.`);
        break;
      }
      await new Promise((resolve) => setTimeout(resolve)); // let the page breathe
      if (mine !== state.run) return;
    }
  } finally {
    if (mine === state.run) setRunning(false);
  }
}

function setRunning(running) {
  Object.assign(state, { running, stopping: false });
  element("run").textContent = running ? "Stop" : "Run";
  element("run").disabled = !state.sampler || !state.image;
  element("save").disabled = running || !state.statistics;
}

function say(text, error = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

/** Run what an event asks for; what goes wrong is said, and earlier results stay. */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    setRunning(false);
    say(String(error.message ?? error), true);
    console.warn(error);
  }
}

// ---------------------------------------------------------------- maps

function paint(canvas, { width, height }, colour) {
  const small = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    pixels.data.set([...colour(at), 255], 4 * at);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = width * ZOOM;
  canvas.height = height * ZOOM;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return context;
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function scaleColour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (SCALE.length - 1);
  const below = Math.min(Math.floor(place), SCALE.length - 2);
  return SCALE[below].map((start, i) => start + (place - below) * (SCALE[below + 1][i] - start));
}

function show(statistics, { image, rate, milliseconds }) {
  const maps = {
    topClass: statistics.topClass(),
    predictiveEntropy: statistics.predictiveEntropy(),
    expectedEntropy: statistics.expectedEntropy,
    mutualInformation: statistics.mutualInformation(),
  };
  Object.assign(state, { statistics, maps, shown: { image, name: state.name, rate, milliseconds } });
  const grey = (at) => 40 + 90 * image.pixels[at];
  const context = paint(element("prediction"), image, (at) =>
    maps.topClass[at] ? rgb(COLOURS[maps.topClass[at]]) : Array(3).fill(grey(at)),
  );
  label(context, regions(maps.topClass, image), image);
  showUncertainty();
  showNumbers();
}

/** Return centre, size and class of the connected regions of a class map, without class 0. */
function regions(classes, { width, height }) {
  const seen = new Uint8Array(classes.length);
  const found = [];
  for (let start = 0; start < classes.length; start++) {
    if (!classes[start] || seen[start]) continue;
    const region = { label: classes[start], size: 0, x: 0, y: 0 };
    const waiting = [start];
    seen[start] = 1;
    while (waiting.length) {
      const at = waiting.pop();
      const [x, y] = [at % width, Math.floor(at / width)];
      region.size++;
      region.x += x;
      region.y += y;
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        const next = at + dx + dy * width;
        const inside = x + dx >= 0 && x + dx < width && y + dy >= 0 && y + dy < height;
        if (inside && !seen[next] && classes[next] === region.label) {
          seen[next] = 1;
          waiting.push(next);
        }
      }
    }
    found.push({ ...region, x: region.x / region.size, y: region.y / region.size });
  }
  return found;
}

function label(context, found, { width, height }) {
  context.font = `700 ${ZOOM * 9}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = ZOOM * 1.5;
  context.lineJoin = "round";
  for (const { label: digit, size, x, y } of found) {
    if (size < 40) continue;
    const within = (value, length) => Math.min(Math.max(value, 5), length - 5) * ZOOM;
    const place = [CLASSES[digit], within(x + 0.5, width), within(y + 0.5, height)];
    context.strokeStyle = "#111";
    context.strokeText(...place);
    context.fillStyle = "#fff";
    context.fillText(...place);
  }
}

function showUncertainty() {
  const name = document.querySelector("input[name=map]:checked").value;
  const { top, meaning } = MAPS[name];
  element("meaning").textContent = meaning;
  element("scale-middle").textContent = (top / 2).toFixed(1);
  element("scale-top").textContent = `${top.toFixed(1)} nats or more`;
  if (state.maps) {
    const map = state.maps[name];
    paint(element("uncertainty"), state.shown.image, (at) => scaleColour(map[at] / top));
  }
}

function readPixel(event) {
  if (!state.maps) return;
  const { image } = state.shown;
  const box = event.currentTarget.getBoundingClientRect();
  const place = (value, length) => Math.min(length - 1, Math.max(0, Math.floor(value * length)));
  const x = place((event.clientX - box.left) / box.width, image.width);
  const y = place((event.clientY - box.top) / box.height, image.height);
  const at = y * image.width + x;
  const { statistics } = state;
  const likely = CLASSES.map((text, c) => [text, statistics.mean[c * statistics.pixels + at], c])
    .sort((a, b) => b[1] - a[1])
    .slice(0, 2)
    .map(([text, p, c]) => `${text}: ${p.toFixed(2)} ± ${statistics.deviation(c, at).toFixed(2)}`);
  const [total, disagreement] = ["predictiveEntropy", "mutualInformation"].map((name) =>
    state.maps[name][at].toFixed(2),
  );
  element("pixel").textContent =
    `Pixel (${x}, ${y}): ${likely.join(", ")}; uncertainty ${total}, of it disagreement ${disagreement}`;
}

// ---------------------------------------------------------------- numbers

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function deviation(values) {
  const mean = average(values);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / Math.max(1, values.length - 1));
}

function showNumbers() {
  const { statistics, maps } = state;
  element("mutual-information").textContent = average(maps.mutualInformation).toFixed(4);
  element("expected-entropy").textContent = average(maps.expectedEntropy).toFixed(4);
  element("predictive-entropy").textContent = average(maps.predictiveEntropy).toFixed(4);
  element("time").textContent = `${state.shown.milliseconds.toFixed(0)} ms`;
  const rows = CLASSES.map((text, c) => {
    const shares = statistics.shares.map((share) => share[c]);
    const there = [...maps.mutualInformation].filter((_, at) => maps.topClass[at] === c);
    const cells = [
      (100 * average(shares)).toFixed(3) + " %",
      (100 * deviation(shares)).toFixed(3) + " %",
      there.length ? average(there).toFixed(3) : "–",
    ];
    const row = document.createElement("tr");
    row.append(...[text, ...cells].map((content) => {
      const cell = document.createElement("td");
      cell.textContent = content;
      return cell;
    }));
    row.firstChild.prepend(swatch(c));
    return row;
  });
  element("table").replaceChildren(...rows);
}

function swatch(c) {
  const mark = document.createElement("span");
  mark.className = "swatch";
  mark.style.background = COLOURS[c] ?? "#777";
  return mark;
}

/** Offer all numbers of the last run as a JSON file. */
function save() {
  const { statistics, maps, shown } = state;
  const rounded = (values) => Array.from(values, (value) => Number(value.toPrecision(8)));
  const content = {
    image: shown.name,
    height: statistics.height,
    width: statistics.width,
    samples: statistics.samples,
    rate: shown.rate,
    milliseconds_per_sample: shown.milliseconds,
    classes: CLASSES,
    shares: statistics.shares.map(rounded),
    mean: rounded(statistics.mean),
    predictive_entropy: rounded(maps.predictiveEntropy),
    expected_entropy: rounded(maps.expectedEntropy),
    mutual_information: rounded(maps.mutualInformation),
  };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
  link.download = `${shown.name.replace(/\.[^.]*$/, "")}-uncertainty.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---------------------------------------------------------------- events

for (const button of document.querySelectorAll("[data-image]")) {
  button.addEventListener("click", () => attempt(() => chooseExample(button)));
}
element("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // so that the same file can be chosen again
  if (file) attempt(() => choose(() => file, file.name, target.closest("label")));
});
element("run").addEventListener("click", () => {
  if (state.running) state.stopping = true;
  else attempt(run);
});
element("save").addEventListener("click", save);
element("samples").addEventListener("input", ({ target }) => (element("samples-value").value = target.value));
element("rate").addEventListener("input", ({ target }) => {
  element("rate-value").value = Number(target.value).toFixed(2);
});
for (const id of ["samples", "rate"]) element(id).addEventListener("change", () => attempt(run));
for (const radio of document.querySelectorAll("input[name=map]")) radio.addEventListener("change", showUncertainty);
for (const id of ["input", "prediction", "uncertainty"]) {
  element(id).addEventListener("pointermove", readPixel);
  element(id).addEventListener("pointerdown", readPixel);
}

element("classes").append(...CLASSES.slice(1).map((text, at) => {
  const item = document.createElement("li");
  item.append(swatch(at + 1), text);
  return item;
}));
const scale = element("scale").getContext("2d");
for (let x = 0; x < 256; x++) {
  scale.fillStyle = `rgb(${scaleColour(x / 255).join(" ")})`;
  scale.fillRect(x, 0, 1, 1);
}
showUncertainty();
attempt(async () => {
  state.sampler = await Sampler.load("sampler.onnx");
  if (state.image) await run();
  else await chooseExample(document.querySelector("[data-image=unknown]"));
});
