/* A recording: five planes of bytes, [5, forwards, length], each row stored as its difference from the row before. */

const NO_TOKEN = 0, UNKNOWN = 255;
const STATES = ["not open yet", "masked", "soft", "token", "committed"];
const MASKED = 1, COMMITTED = 4;

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Recording {
  /* Decode a row of the data; texts are those of the page's tokens, by number. */
  static async read(row, texts) {
    const recording = new Recording();
    Object.assign(recording, row, { texts });
    const cells = await inflate(row.planes), plane = row.forwards * row.length;
    for (let kind = 0; kind < 5; kind++) {
      for (let at = kind * plane + row.length; at < (kind + 1) * plane; at++) cells[at] ^= cells[at - row.length];
    }
    const [low, middle, high, state, percent] = [0, 1, 2, 3, 4].map((k) => cells.subarray(k * plane, (k + 1) * plane));
    recording.token = Uint32Array.from({ length: plane }, (_, at) => low[at] | (middle[at] << 8) | (high[at] << 16));
    recording.state = state;
    recording.percent = percent;
    recording.firstRevision = recording.findFirstRevisions();
    return recording;
  }

  /* Index of a cell; forwards count from 1. */
  at(forward, position) { return (forward - 1) * this.length + position; }

  /* Whether a token that was shown has gone at this forward: another came, or the mask again. */
  revisedAt(forward, position) {
    if (forward < 2) return false;
    const at = this.at(forward, position), before = this.token[at - this.length];
    return before !== NO_TOKEN && before !== this.token[at];
  }

  findFirstRevisions() {
    const first = new Uint32Array(this.length).fill(0xffffffff);
    for (let forward = this.forwards; forward > 1; forward--) {
      for (let position = 0; position < this.length; position++) {
        if (this.revisedAt(forward, position)) first[position] = forward;
      }
    }
    return first;
  }

  /* What a position held up to a forward: one line for each token or mask, with the forwards at which it was there. */
  history(position, upTo) {
    const lines = [];
    for (let forward = 1, since = 1; forward <= upTo; forward++) {
      const at = this.at(forward, position), isLast = forward === upTo;
      if (!isLast && this.token[at + this.length] === this.token[at]) continue;
      const token = this.token[at];
      const what = token !== NO_TOKEN ? `“${this.texts[token]}”` : this.state[at] === MASKED ? "masked" : "not open yet";
      const when = since === forward ? `forward ${forward}` : `forwards ${since} to ${forward}`;
      const percent = this.percent[at];
      const confidence = token === NO_TOKEN || percent === UNKNOWN ? "" : `, confidence ${(percent / 100).toFixed(2)}`;
      if (token !== NO_TOKEN || lines.length) lines.push(`${what}: ${when}${confidence}`);
      since = forward + 1;
    }
    return lines;
  }

  /* Counts of one forward, for the summary. */
  counts(forward) {
    const counts = { shown: 0, revised: 0, decided: 0, open: new Set() };
    for (let position = 0; forward > 0 && position < this.length; position++) {
      const at = this.at(forward, position), token = this.token[at];
      const before = forward > 1 ? this.token[at - this.length] : NO_TOKEN;
      if (token !== NO_TOKEN) counts.decided++;
      if (token !== NO_TOKEN && before === NO_TOKEN) counts.shown++;
      if (this.revisedAt(forward, position)) counts.revised++;
      if (this.isOpen(forward, position)) counts.open.add(this.block[position]);
    }
    return counts;
  }

  /* Whether the position's block took part in a forward: it is open after it, or was committed by it. */
  isOpen(forward, position) {
    if (forward < 1) return false;
    const at = this.at(forward, position), state = this.state[at];
    if (state === 0) return false;
    return state !== COMMITTED || forward === 1 || this.state[at - this.length] !== COMMITTED;
  }
}
