// Opens the example page in headless Chromium, uses it as a person would, and prints what it saw
// as one JSON object. Usage: node drive.mjs PLAN.json, run where playwright-core is installed.
//
// PLAN: { url, executable, folder (for screenshots), image, samples, runs, upload, broken,
//         forms: [{ name, url, shape }] }

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

const plan = JSON.parse(await readFile(process.argv[2], "utf8"));
const { chromium } = createRequire(path.resolve("package.json"))("playwright-core");

const seen = { messages: [], foreign: [], failed: [] };

/** Note what a page complains of and what it asks of others. */
function watched(page) {
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => {
    if (message.type() !== "log") seen.messages.push(`${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => seen.messages.push(`uncaught: ${error}`));
  page.on("request", (request) => {
    const local = request.url().startsWith(plan.url) || /^(blob|data):/.test(request.url());
    if (!local) seen.foreign.push(request.url());
  });
  page.on("response", (response) => {
    if (response.status() >= 400) seen.failed.push(`${response.status()} ${response.url()}`);
  });
  return page;
}

/** Wait until a page does not sample, and return what it says. */
async function settled(page) {
  await page.locator("#run:enabled", { hasText: /^Run$/ }).waitFor();
  return page.locator("#status").textContent();
}

const browser = await chromium.launch({
  executablePath: plan.executable,
  headless: true,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 1000 } });
  const page = watched(await context.newPage());

  const set = async (slider, value) => {
    await page.locator(`#${slider}`).fill(String(value));
    return settled(page);
  };
  const rerun = async () => {
    await page.locator("#run").click();
    return settled(page);
  };
  const saved = async () => {
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.locator("#save").click(),
    ]);
    return {
      file: download.suggestedFilename(),
      numbers: JSON.parse(await readFile(await download.path(), "utf8")),
      shown: {
        mutual_information: await page.locator("#mutual-information").textContent(),
        expected_entropy: await page.locator("#expected-entropy").textContent(),
        predictive_entropy: await page.locator("#predictive-entropy").textContent(),
        rows: await page.locator("#table tr").allTextContents(),
      },
    };
  };
  const shot = (name) =>
    page.screenshot({ path: path.join(plan.folder, `${name}.png`), fullPage: true });
  const painted = (id) => page.locator(`#${id}`).evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set();
    for (let at = 0; at < data.length; at += 4) {
      colours.add((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
    }
    return { width: canvas.width, height: canvas.height, colours: colours.size };
  });

  await page.goto(plan.url);
  seen.opened = await settled(page);
  await page.locator("#uncertainty").hover();
  seen.pixel = await page.locator("#pixel").textContent();
  await shot("page");
  seen.painted = {
    input: await painted("input"),
    prediction: await painted("prediction"),
    uncertainty: await painted("uncertainty"),
  };

  await page.locator(`[data-image=${plan.image}]`).click();
  await settled(page);
  await set("samples", plan.samples);
  await set("rate", 0);
  seen.still = await saved();
  await set("rate", plan.rate);
  seen.runs = [];
  for (let run = 0; run < plan.runs; run++) {
    await rerun();
    seen.runs.push(await saved());
  }

  await page.locator("input[value=mutualInformation]").check({ force: true });
  seen.scale = await page.locator("#scale-top").textContent();
  await page.locator("#samples").fill("100");
  await page.locator("#run", { hasText: "Stop" }).click();
  seen.stopped = await settled(page);
  seen.partial = await saved();
  await page.locator("#samples").fill("4");
  await settled(page);
  await page.locator("#file").setInputFiles(plan.broken);
  await page.locator("#status.error").waitFor();
  seen.broken = await settled(page);
  seen.kept = (await saved()).file;
  await page.locator("#file").setInputFiles(plan.upload);
  await page.locator("#status:not(.error)", { hasText: "4 samples" }).waitFor();
  await settled(page);
  seen.uploaded = await saved();

  const phone = await browser.newContext({
    viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true,
  });
  const small = watched(await phone.newPage());
  await small.goto(plan.url);
  await settled(small);
  await small.locator("#uncertainty").tap();
  seen.phone = await small.evaluate(() => ({
    pixel: document.getElementById("pixel").textContent,
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    smallest: Math.min(...[...document.querySelectorAll("button, .file, input[type=range], fieldset span")]
      .map((target) => target.getBoundingClientRect().height)),
  }));
  await small.screenshot({ path: path.join(plan.folder, "phone.png") });

  // Forms of models, straight in the runtime: two runs each, and their largest difference.
  seen.forms = await page.evaluate(async (forms) => {
    const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
    ort.env.logLevel = "error";
    const results = {};
    for (const { name, url, shape } of forms) {
      try {
        const model = await (await fetch(url)).arrayBuffer();
        const session = await ort.InferenceSession.create(model);
        const size = shape.reduce((product, length) => product * length, 1);
        const data = Float32Array.from({ length: size }, (_, at) => 1 + (at % 7));
        const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", data, shape) };
        const outputs = [];
        for (let run = 0; run < 2; run++) {
          outputs.push((await session.run(feeds))[session.outputNames[0]].data);
        }
        const [first, second] = outputs;
        results[name] = {
          finite: first.every(Number.isFinite),
          difference: first.reduce((most, value, at) => Math.max(most, Math.abs(value - second[at])), 0),
        };
      } catch (error) {
        results[name] = { error: String(error.message ?? error) };
      }
    }
    return results;
  }, plan.forms);
  seen.version = browser.version();
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
