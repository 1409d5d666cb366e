/* The heat map: positions from left to right, forwards from top to bottom. */

const HUES = { 2: "--soft", 3: "--token", 4: "--committed" };
const MOST_PIXELS = 1000, LEAST_HEIGHT = 90, MOST_HEIGHT = 300, ROW_HEIGHT = 9;

class HeatMap {
  constructor(recording, onForward) {
    this.recording = recording;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label",
      `Heat map of ${recording.length} positions by ${recording.forwards} forwards; the slider moves its line`);
    this.cursor = document.createElement("div");
    this.cursor.className = "cursor";
    this.element = document.createElement("div");
    this.element.className = "map";
    this.element.append(this.canvas, this.cursor);
    this.element.addEventListener("pointerdown", (event) => {
      this.element.setPointerCapture(event.pointerId);
      onForward(this.forwardAt(event));
    });
    this.element.addEventListener("pointermove", (event) => event.buttons && onForward(this.forwardAt(event)));
    this.draw();
  }

  forwardAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor((this.recording.forwards * (event.clientY - box.top)) / box.height);
    return Math.min(Math.max(row + 1, 1), this.recording.forwards);
  }

  moveTo(forward) {
    const share = this.recording.forwards ? forward / this.recording.forwards : 0;
    this.cursor.style.transform = `translateY(${share * this.height}px)`;
  }

  /* Draw everything once, in the colours of the theme. Where cells share a pixel, revisions win. */
  draw() {
    const { forwards, length, state, percent } = this.recording;
    const width = Math.max(1, Math.min(length, MOST_PIXELS)), rows = Math.max(1, Math.min(forwards, MOST_PIXELS));
    this.height = Math.min(Math.max(forwards * ROW_HEIGHT, LEAST_HEIGHT), MOST_HEIGHT);
    this.canvas.width = width;
    this.canvas.height = rows;
    this.canvas.style.height = `${this.height}px`;
    const image = new ImageData(width, rows), pixels = new Uint32Array(image.data.buffer);
    const colours = palette(), revised = colours.revised, recent = new Uint8Array(width * rows);
    const columnOf = Uint32Array.from({ length }, (_, position) => Math.floor((position * width) / length));
    for (let forward = 1, at = 0; forward <= forwards; forward++) {
      const row = Math.floor(((forward - 1) * rows) / forwards) * width;
      for (let position = 0; position < length; position++, at++) {
        const pixel = row + columnOf[position];
        if (this.recording.revisedAt(forward, position)) recent[pixel] = 1;
        const isSettled = state[at] === COMMITTED && !this.recording.isOpen(forward, position);
        const strength = isSettled ? 0 : percent[at] === UNKNOWN ? 1 : 1 + Math.floor(percent[at] / 10);
        pixels[pixel] = recent[pixel] ? revised : colours.cells[state[at]][strength];
      }
    }
    this.canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

/* The theme's colours as the bytes of pixels: for each state the colour when settled, and at confidences 0 to 1. */
function palette() {
  const style = getComputedStyle(document.documentElement), context = document.createElement("canvas").getContext("2d");
  context.canvas.width = context.canvas.height = 1;
  const page = style.getPropertyValue("--page");
  const pixel = (colour) => {
    context.fillStyle = page;
    context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
  };
  const mixed = (colour, share) => `color-mix(in srgb, ${colour} ${100 * share}%, transparent)`;
  const mask = style.getPropertyValue("--mask");
  const cells = STATES.map((_, state) => Array.from({ length: 12 }, (_, strength) => {
    if (state === 0) return pixel(page);
    if (state === MASKED) return pixel(mixed(mask, 0.15 + 0.06 * strength));
    const share = strength ? 0.25 + 0.075 * (strength - 1) : 0.22;
    return pixel(mixed(`hsl(${style.getPropertyValue(HUES[state])})`, share));
  }));
  return { cells, revised: pixel(style.getPropertyValue("--revised")) };
}
