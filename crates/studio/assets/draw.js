// Masks and maps on canvases.

export const COLOURS = { prediction: [213, 94, 0], target: [0, 114, 178], distractor: [204, 121, 167] };

// COCO's compressed run lengths, as a mask of 0 and 1, row by row.
export function decode({ size: [height, width], counts }) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  const data = new Uint8Array(width * height);
  let place = 0;
  runs.forEach((run, index) => {
    if (index % 2 === 1) {
      for (let end = place + run, at = place; at < end; at++) data[(at % height) * width + Math.floor(at / height)] = 1;
    }
    place += run;
  });
  return { width, height, data };
}

export function boxOf({ width, height, data }) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x]) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = y;
      }
    }
  }
  return right < 0 ? null : [left, top, right - left + 1, bottom - top + 1];
}

export function clear(canvas, width, height) {
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext("2d");
}

// Lays a mask over what is there.
export function paint(context, mask, colour, { fill = true, outline = true, box = false } = {}) {
  const { width, height, data } = mask;
  const layer = new ImageData(width, height);
  const thickness = Math.max(1, Math.round(Math.max(width, height) / 400));
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      if (!data[at]) continue;
      const edge =
        outline &&
        !(inside(x - thickness, y) && inside(x + thickness, y) && inside(x, y - thickness) && inside(x, y + thickness));
      if (!edge && !fill) continue;
      layer.data.set(colour, 4 * at);
      layer.data[4 * at + 3] = edge ? 255 : 110;
    }
  }
  const own = document.createElement("canvas");
  clear(own, width, height).putImageData(layer, 0, 0);
  context.drawImage(own, 0, 0, context.canvas.width, context.canvas.height);
  const found = box && boxOf(mask);
  if (found) {
    const [across, down] = [context.canvas.width / width, context.canvas.height / height];
    context.strokeStyle = `rgb(${colour})`;
    context.lineWidth = Math.max(2, 2 * thickness * across);
    context.setLineDash([6 * thickness, 4 * thickness]);
    context.strokeRect(found[0] * across, found[1] * down, found[2] * across, found[3] * down);
    context.setLineDash([]);
  }
}

// Black over violet and orange to yellow: brightness alone tells the values.
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function heatColour(value) {
  const at = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((part, index) => part + (at - low) * (HEAT[low + 1][index] - part));
}

// Where there is nothing, the picture shows through.
export function heatLayer(values, width, height) {
  const layer = new ImageData(width, height);
  values.forEach((value, at) => {
    layer.data.set(heatColour(value), 4 * at);
    layer.data[4 * at + 3] = 90 + 120 * Math.min(Math.max(value, 0), 1);
  });
  const canvas = document.createElement("canvas");
  clear(canvas, width, height).putImageData(layer, 0, 0);
  return canvas;
}

export function load(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    // The program says why.
    image.onerror = async () => {
      const answer = await fetch(source).then((found) => found.json()).catch(() => null);
      reject(new Error(answer?.error ?? "a picture could not be loaded"));
    };
    image.src = source;
  });
}

// The grey values of a picture, 0 to 255, row by row.
export async function greyOf(source) {
  const image = await load(source);
  const canvas = document.createElement("canvas");
  const context = clear(canvas, image.naturalWidth, image.naturalHeight);
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const values = new Uint8Array(canvas.width * canvas.height);
  for (let at = 0; at < values.length; at++) values[at] = data[4 * at];
  return { width: canvas.width, height: canvas.height, values };
}
