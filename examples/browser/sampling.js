// Monte-Carlo dropout in onnxruntime-web: draws samples of a segmentation model whose dropout is
// alive, and keeps running statistics of them. Knows nothing of the page.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

// Rows of one run: every row of a batch gets masks of its own, and short runs show progress.
const ROWS = 2;

export class Sampler {
  #session;

  /** Load a model with inputs image [N, 1, H, W] and rate (scalar), and output logits. */
  static async load(url) {
    const response = await fetch(url);
    if (!response.ok) {
      throw new Error(`${url} is not there (${response.status}); "python make.py" writes it`);
    }
    const sampler = new Sampler();
    sampler.#session = await ort.InferenceSession.create(await response.arrayBuffer());
    return sampler;
  }

  /**
   * Yield statistics after each run until `samples` are drawn; they are updated in place.
   * `image` is { pixels: Float32Array from 0 to 1, height, width }, sizes multiples of 8.
   */
  async *draw(image, samples, rate) {
    const { pixels, height, width } = image;
    let statistics = null;
    for (let drawn = 0; drawn < samples; ) {
      const rows = Math.min(ROWS, samples - drawn);
      const data = new Float32Array(rows * pixels.length);
      for (let row = 0; row < rows; row++) data.set(pixels, row * pixels.length);
      const { logits } = await this.#session.run({
        image: new ort.Tensor("float32", data, [rows, 1, height, width]),
        rate: new ort.Tensor("float32", Float32Array.of(rate), []),
      });
      const size = logits.data.length / rows;
      statistics ??= new Statistics(logits.dims[1], height, width);
      for (let row = 0; row < rows; row++) {
        statistics.add(logits.data.subarray(row * size, (row + 1) * size));
      }
      logits.dispose();
      drawn += rows;
      yield statistics;
    }
  }
}

/** Running mean and variance of class probabilities, and running entropy, of every pixel. */
export class Statistics {
  constructor(classes, height, width) {
    Object.assign(this, { classes, height, width, pixels: height * width, samples: 0 });
    this.mean = new Float64Array(classes * this.pixels);
    this.squares = new Float64Array(classes * this.pixels);
    this.expectedEntropy = new Float64Array(this.pixels);
    this.shares = []; // of each sample: the mean probability of each class over the image
  }

  /** Take in the logits [classes, H, W] of one sample. */
  add(logits) {
    const { classes, pixels } = this;
    const count = ++this.samples;
    const probability = new Float64Array(classes);
    const share = new Float64Array(classes);
    for (let pixel = 0; pixel < pixels; pixel++) {
      let largest = -Infinity;
      for (let c = 0; c < classes; c++) largest = Math.max(largest, logits[c * pixels + pixel]);
      let total = 0;
      for (let c = 0; c < classes; c++) {
        total += probability[c] = Math.exp(logits[c * pixels + pixel] - largest);
      }
      let entropy = 0;
      for (let c = 0; c < classes; c++) {
        const p = probability[c] / total;
        const at = c * pixels + pixel;
        const step = p - this.mean[at];
        this.mean[at] += step / count;
        this.squares[at] += step * (p - this.mean[at]);
        if (p > 0) entropy -= p * Math.log(p);
        share[c] += p / pixels;
      }
      this.expectedEntropy[pixel] += (entropy - this.expectedEntropy[pixel]) / count;
    }
    this.shares.push(share);
  }

  /** Class of the largest mean probability, per pixel. */
  topClass() {
    return Uint8Array.from({ length: this.pixels }, (_, pixel) => {
      let best = 0;
      for (let c = 1; c < this.classes; c++) {
        if (this.mean[c * this.pixels + pixel] > this.mean[best * this.pixels + pixel]) best = c;
      }
      return best;
    });
  }

  /** Entropy of the mean probabilities, in nats, per pixel. */
  predictiveEntropy() {
    const result = new Float64Array(this.pixels);
    this.mean.forEach((p, at) => {
      if (p > 0) result[at % this.pixels] -= p * Math.log(p);
    });
    return result;
  }

  /** What the samples disagree about: predictive minus expected entropy, in nats, per pixel. */
  mutualInformation() {
    const predictive = this.predictiveEntropy();
    return predictive.map((entropy, at) => Math.max(0, entropy - this.expectedEntropy[at]));
  }

  /** Standard deviation of a class's probability at a pixel over the samples. */
  deviation(label, pixel) {
    return Math.sqrt(this.squares[label * this.pixels + pixel] / Math.max(1, this.samples - 1));
  }
}
