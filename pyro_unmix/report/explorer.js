// The part of the page to click on. Text from files only ever becomes text: nothing here writes HTML.

const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const [nRows, nColumns] = [data.rows.length, data.columns.length];
const nPixels = nRows * nColumns;
const maps = { mean: unpack(data.mean), sd: unpack(data.sd) };
const quantiles = unpack(data.quantiles);
const endmembers = unpack(data.endmembers);
const brightness = data.brightness && unpack(data.brightness);
const spectra = data.spectra && {
  observed: unpack(data.spectra.reflectance),
  fitted: data.spectra.reconstruction && unpack(data.spectra.reconstruction),
};
const colours = Object.fromEntries(Object.entries(data.colours).map(([what, text]) =>
  [what, Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]));
const coordinates = data.coordinates.map((about) => ({ ...about, maps: about.maps && unpack(about.maps) }));
const MASKED = 204; // grey, as in the figures

const state = { endmember: 0, quantity: "mean", threshold: 0.5, i: nRows >> 1, j: nColumns >> 1 };

// Numbers of a pixel

const valueOf = (map, k, pixel) => map[k * nPixels + pixel];
const quantilesOf = (k, pixel) => data.levels.map((_, q) => quantiles[(q * data.names.length + k) * nPixels + pixel]);
const exceeds = (k, pixel) => exceedance(quantilesOf(k, pixel), data.scores, state.threshold);
const shown = (pixel) =>
  state.quantity === "exceedance" ? exceeds(state.endmember, pixel) : valueOf(maps[state.quantity], state.endmember, pixel);

/** Observed and fitted spectrum of a pixel, as far as the page has them. */
function spectraOf(pixel, abundances) {
  const nBands = data.wavelengths.length;
  const row = spectra ? data.spectra.rows.indexOf(data.rows[state.i]) : -1;
  const column = spectra ? data.spectra.columns.indexOf(data.columns[state.j]) : -1;
  const kept = row >= 0 && column >= 0;
  const first = (row * data.spectra?.columns.length + column) * nBands;
  const part = (all) => (kept && all ? all.subarray(first, first + nBands) : null);
  const mixed = () => (data.linear ? mixture(abundances, endmembers, brightness ? brightness[pixel] : 1) : null);
  return { observed: part(spectra?.observed), fitted: part(spectra?.fitted) ?? mixed() };
}

// Drawing

function make(parent, name, attributes = {}, text = "") {
  const space = parent instanceof SVGElement ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return parent.appendChild(node);
}

function paint(canvas, width, height, valueAt, table, top) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel += 1) {
    const value = valueAt(pixel);
    const entry = 3 * Math.round(255 * Math.min(value / top, 1));
    image.data.set(Number.isNaN(value) ? [MASKED, MASKED, MASKED, 255] : [...table.subarray(entry, entry + 3), 255], 4 * pixel);
  }
  context.putImageData(image, 0, 0);
}

const number = (value, digits = 3) => (Number.isNaN(value) ? "none" : value.toFixed(digits));
const titles = () => ({
  mean: "mean abundance (share of the pixel)",
  sd: "standard deviation of the abundance (share of the pixel)",
  exceedance: `probability that the abundance is above ${state.threshold.toFixed(2)}`,
});

function drawMap() {
  const [top, table] = [data.top[state.quantity], colours[state.quantity]];
  const title = `${data.names[state.endmember]}: ${titles()[state.quantity]}`;
  paint(find("cells"), nColumns, nRows, shown, table, top);
  paint(find("scale"), 256, 1, (pixel) => pixel, table, 255);
  find("middle").textContent = number(top / 2, 2);
  find("top").textContent = state.quantity === "sd" ? `${number(top, 3)} or more` : "1";
  find("meaning").textContent = `${title}. Grey: masked. The scale is the same for all endmembers.`;
  find("map").setAttribute("aria-label", `Map of ${title}. Arrow keys choose a pixel.`);
  find("chosen").textContent = state.threshold.toFixed(2);
  find("threshold").value = state.threshold; // a browser may bring back what was chosen on an earlier visit
  find("endmember").value = state.endmember;
  for (const input of document.getElementsByName("quantity")) input.checked = input.value === state.quantity;
}

function drawSpectrum(observed, fitted) {
  const svg = find("spectrum");
  const [width, height, left, right, above, below] = [svg.clientWidth, 240, 52, 20, 12, 44];
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const values = [...(observed ?? []), ...(fitted ?? [])];
  document.querySelector(".key .observed").hidden = !observed;
  document.querySelector(".key .fitted").hidden = !fitted;
  if (!values.length || values.some(Number.isNaN)) return;
  const [low, high] = [values.reduce((a, b) => Math.min(a, b), 0), values.reduce((a, b) => Math.max(a, b), 1e-9)];
  const [first, last] = [data.wavelengths[0], data.wavelengths.at(-1)];
  const x = (band) => left + ((width - left - right) * (band - first)) / (last - first || 1);
  const y = (value) => height - below - ((height - above - below) * (value - low)) / (high - low);
  for (const value of marks(low, high, 4)) {
    make(svg, "line", { x1: left, x2: width - right, y1: y(value), y2: y(value) });
    make(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value));
  }
  for (const band of marks(first, last, 5)) {
    make(svg, "text", { x: x(band), y: height - below + 18, "text-anchor": "middle" }, String(band));
  }
  make(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" },
    data.unit ? `wavelength (${data.unit})` : "band number");
  make(svg, "text", { x: -(height - below) / 2, y: 12, "text-anchor": "middle", transform: "rotate(-90)" },
    "reflectance (as the scene)");
  for (const [spectrum, name] of [[observed, "observed"], [fitted, "fitted"]]) {
    if (!spectrum) continue;
    const path = Array.from(spectrum, (value, band) =>
      `${band === 0 || data.gaps.includes(band) ? "M" : "L"}${x(data.wavelengths[band]).toFixed(1)} ${y(value).toFixed(1)}`);
    make(svg, "path", { d: path.join(""), class: name });
  }
}

function drawAbundances(pixel) {
  const list = find("abundances");
  list.replaceChildren();
  data.names.forEach((name, k) => {
    const [mean, sd, q] = [valueOf(maps.mean, k, pixel), valueOf(maps.sd, k, pixel), quantilesOf(k, pixel)];
    const row = make(list, "li");
    make(row, "strong", {}, name);
    if (Number.isNaN(mean)) return;
    const [lowest, lower, median, upper, highest] = q;
    make(row, "span", {}, ` mean ${number(mean)}, sd ${number(sd)}, 90 % interval ${number(lowest)} to ${number(highest)}; `
      + `above ${state.threshold.toFixed(2)}: ${number(100 * exceeds(k, pixel), 1)} %`);
    const told = q.map((each, i) => `${100 * data.levels[i]} %: ${number(each)}`).join(", ");
    const bar = make(row, "div", { class: "bar", role: "img", "aria-label": `Quantiles ${told}`, title: told });
    for (const [kind, from, to] of
      [["outer", lowest, highest], ["inner", lower, upper], ["median", median, median], ["mean", mean, mean]]) {
      const part = make(bar, "span", { class: kind });
      part.style.left = `${100 * from}%`;
      part.style.width = `${100 * (to - from)}%`;
    }
  });
}

const placeOf = ({ name, unit, along, values, maps: map }, pixel) => {
  const value = map ? map[pixel] : values[along === "y" ? state.i : state.j];
  return `${name} ${Number(value.toPrecision(9))}${unit ? ` ${unit}` : ""}`;
};

function drawPixel() {
  const pixel = state.i * nColumns + state.j;
  const abundances = data.names.map((_, k) => valueOf(maps.mean, k, pixel));
  const masked = Number.isNaN(abundances[0]);
  const [row, column] = [data.rows[state.i], data.columns[state.j]];
  find("row").value = row;
  find("column").value = column;
  const where = [`Row ${row}, column ${column}`, ...coordinates.map((about) => placeOf(about, pixel))].join(", ");
  const told = `${data.names[state.endmember]}, ${titles()[state.quantity]}: ${number(shown(pixel))}`;
  find("pixel").textContent = masked ? `${where}: masked.` : `${where}. ${told}.`;
  const mark = find("mark");
  mark.style.left = `${(100 * state.j) / nColumns}%`;
  mark.style.top = `${(100 * state.i) / nRows}%`;
  mark.style.width = `${100 / nColumns}%`;
  mark.style.height = `${100 / nRows}%`;

  const { observed, fitted } = masked ? { observed: null, fitted: null } : spectraOf(pixel, abundances);
  drawSpectrum(observed, fitted);
  const apart = observed && fitted ? `Root mean square of the difference: ${distance(observed, fitted).toPrecision(3)}.` : "";
  const missing = masked || observed ? "" : "The page has no observed spectrum of this pixel.";
  const unmixed = masked || fitted ? "" : "The mixture is not linear, and the page has it only beside observed spectra.";
  find("spectrum-note").textContent = [apart, missing, unmixed].join(" ").trim();
  find("spectrum").setAttribute("aria-label",
    `Spectrum of row ${row}, column ${column} over wavelength. ${find("spectrum-note").textContent}`);
  find("nearest").hidden = !missing || !spectra;
  drawAbundances(pixel);
}

// Choosing

const clamp = (value, n) => Math.max(0, Math.min(n - 1, value));
const nearest = (all, value) => all.reduce((best, each) => (Math.abs(each - value) < Math.abs(best - value) ? each : best));

function choose(change) {
  Object.assign(state, change);
  state.i = clamp(state.i, nRows);
  state.j = clamp(state.j, nColumns);
  drawMap();
  drawPixel();
}

const goTo = (row, column) =>
  choose({ i: data.rows.indexOf(nearest(data.rows, row)), j: data.columns.indexOf(nearest(data.columns, column)) });

const map = find("map");
map.style.aspectRatio = `${nColumns} / ${nRows}`;
map.style.maxWidth = `calc(34rem * ${Math.min(1, nColumns / nRows)})`; // no taller than wide
data.names.forEach((name, k) => make(find("endmember"), "option", { value: k }, name));
find("row").max = data.shape[0] - 1;
find("column").max = data.shape[1] - 1;

find("endmember").addEventListener("change", (event) => choose({ endmember: Number(event.target.value) }));
find("quantity").addEventListener("change", (event) => choose({ quantity: event.target.value }));
find("threshold").addEventListener("input", (event) => choose({ threshold: Number(event.target.value), quantity: "exceedance" }));
find("place").addEventListener("submit", (event) => {
  event.preventDefault();
  goTo(Number(find("row").value), Number(find("column").value));
});
find("nearest").addEventListener("click", () =>
  goTo(nearest(data.spectra.rows, data.rows[state.i]), nearest(data.spectra.columns, data.columns[state.j])));
map.addEventListener("click", (event) => {
  const box = map.getBoundingClientRect();
  const [down, across] = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
  choose({ i: Math.floor(down * nRows), j: Math.floor(across * nColumns) });
});
map.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  choose({ i: state.i + steps[event.key][0], j: state.j + steps[event.key][1] });
});
new ResizeObserver(drawPixel).observe(find("spectrum"));
choose({});
