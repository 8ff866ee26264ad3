// Maps to colours, number by number as the server does it: enlarged before they are coloured.

export function decode(array) {
  const text = atob(array.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return { values: new Float32Array(bytes.buffer), shape: array.shape };
}

export function table(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// For each place of the result: the first place of the source that it takes of, and the weights of that and the next.
function taken(from, to, interpolation) {
  if (interpolation === "nearest") {
    return Array.from({ length: to }, (_, i) => [Math.floor(((i + 0.5) * from) / to), [1]]);
  }
  const scale = from / to;
  const reach = Math.max(scale, 1); // what is made smaller is averaged
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(from, Math.floor(centre + reach + 0.5));
    const weights = [];
    for (let j = first; j < last; j++) weights.push(Math.max(0, 1 - Math.abs((j + 0.5 - centre) / reach)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

export function resize(values, [h, w], [height, width], interpolation) {
  const across = taken(w, width, interpolation);
  const down = taken(h, height, interpolation);
  const lines = new Float32Array(h * width);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < width; x++) {
      const [first, weights] = across[x];
      let sum = 0;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * values[y * w + first + j];
      lines[y * width + x] = sum;
    }
  }
  const found = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const [first, weights] = down[y];
    for (let j = 0; j < weights.length; j++) {
      const weight = weights[j];
      const line = (first + j) * width;
      for (let x = 0; x < width; x++) found[y * width + x] += weight * lines[line + x];
    }
  }
  return found;
}

export function range(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// Only what is large is sorted, where that is enough.
function percentile(values, share) {
  const [low, high] = range(values);
  const large = values.filter((value) => value > (low + high) / 2);
  const least = share * (values.length - 1);
  const sorted = (large.length > values.length - least ? large : values.slice()).sort();
  const place = least - values.length + sorted.length;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

// Of many values the top 0.2 % share the last colour, so that one bright pixel does not darken the rest.
function top(values) {
  const [low, high] = range(values);
  if (values.length < 4096) return high;
  const robust = Math.fround(percentile(values, 0.998));
  return robust > low ? robust : high;
}

export const signed = (map) => map.kind === "signed" || (map.kind === "regions" && map.min < 0);

// The values of the first and the last colour of a drawing.
export function limits(values, centred) {
  if (!centred) return [range(values)[0], top(values)];
  const limit = top(values.map(Math.abs));
  return [-limit, limit];
}

// Pixels (RGBA) of heat: signed values are centred on zero, others go from their least to their greatest.
export function colours(values, centred, lut) {
  const [low, high] = limits(values, centred);
  const pixels = new Uint8ClampedArray(values.length * 4);
  const span = high - low;
  for (let i = 0; i < values.length; i++) {
    const unit = span > 0 ? (Math.min(values[i], high) - low) / span : centred ? 0.5 : 0;
    const index = 3 * Math.max(0, Math.min(255, Math.floor(unit * 255 + 0.5)));
    pixels[4 * i] = lut[index];
    pixels[4 * i + 1] = lut[index + 1];
    pixels[4 * i + 2] = lut[index + 2];
    pixels[4 * i + 3] = 255;
  }
  return { pixels, low, high };
}

// Pixels of a picture (3, h, w) as it is, or of a signed one with zero as grey.
export function picture(values, [, h, w], kind) {
  const pixels = new Uint8ClampedArray(h * w * 4).fill(255);
  const limit = kind === "rgb" ? 1 : percentile(values.map(Math.abs), 0.995) || Math.max(...range(values).map(Math.abs)) || 1;
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < h * w; i++) {
      const value = values[c * h * w + i];
      pixels[4 * i + c] = kind === "rgb" ? Math.round(value * 255) : Math.trunc((value / limit) * 127.5 + 127.5);
    }
  }
  return pixels;
}

export function put(canvas, pixels, width, height) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

// The raw array as a NumPy file.
export function npy({ values, shape }) {
  const said = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const head = said.padEnd(Math.ceil((said.length + 11) / 64) * 64 - 11) + "\n";
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length & 255, head.length >> 8];
  return new Blob([new Uint8Array(magic), head, values], { type: "application/octet-stream" });
}
