"use strict";
// What can be computed from the numbers in the page. Nothing here knows of the page itself.

/** Numbers from whole ones of two bytes in base64; NaN where masked (`packed` in explorer.py). */
function unpack({ low, high, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const value = (step) => (step > 65534 ? NaN : low + ((high - low) * step) / 65534);
  return Float32Array.from(new Uint16Array(bytes.buffer), value);
}

/** Share of a standard normal distribution below z. Abramowitz and Stegun (1964), 26.2.17: wrong by at most 7.5e-8. */
function normalBelow(z) {
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const beyond = (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * series;
  return z > 0 ? 1 - beyond : beyond;
}

/**
 * P(abundance > threshold), from the quantiles of the abundance in rising order and their normal `scores`.
 *
 * The score is taken to be piecewise linear in the angle arcsin(sqrt(abundance)), the outermost slopes going on beyond the
 * quantiles: whatever the shape in the middle, tails are those of a normal distribution, drawn together towards 0 and 1.
 */
function exceedance(quantiles, scores, threshold) {
  if (!(quantiles[0] >= 0)) return NaN; // masked
  const angle = (share) => Math.asin(Math.sqrt(share));
  let j = 0;
  while (j < quantiles.length - 2 && threshold > quantiles[j + 1]) j += 1;
  const [from, to] = [angle(quantiles[j]), angle(quantiles[j + 1])];
  const slope = (scores[j + 1] - scores[j]) / Math.max(to - from, 1e-9);
  return normalBelow(-scores[j] - (angle(threshold) - from) * slope);
}

/** Sum of the spectra in `endmembers` (endmember, band), each times its abundance, times the brightness. */
function mixture(abundances, endmembers, brightness) {
  const nBands = endmembers.length / abundances.length;
  return Float32Array.from({ length: nBands }, (_, band) =>
    brightness * abundances.reduce((sum, share, k) => sum + share * endmembers[k * nBands + band], 0));
}

/** Root mean square of the difference of two spectra. */
function distance(one, other) {
  return Math.sqrt(one.reduce((sum, value, band) => sum + (value - other[band]) ** 2, 0) / one.length);
}

/** Round numbers for the marks of an axis from `low` to `high`, about `n` of them. */
function marks(low, high, n) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-6);
  const last = Math.floor(high / step + 1e-6);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}
