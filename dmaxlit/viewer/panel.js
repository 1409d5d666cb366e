/* One trace: figures, forwards per block, heat map and tokens. Texts of models are only ever set as textContent. */

const MOST_IN_PIECE = 32; // tokens of a block that are laid out together
const MOST_LINES = 12; // of a token's history
const IDLE = 150; // milliseconds without a step after which what is out of view is brought up to date

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const shownFigure = (value) => (value === null ? "–" : Number(value).toFixed(2));

class Panel {
  constructor(label, recording, onForward) {
    this.label = label;
    this.recording = recording;
    this.forward = -1;
    this.section = element("section");
    this.section.setAttribute("aria-label", label);
    this.section.append(element("h2", "", label));
    if (recording === null) {
      this.section.append(element("p", "prompt", "This trace has no record of this prompt."));
      return;
    }
    if (recording.prompt) this.section.append(element("p", "prompt", recording.prompt));
    this.map = new HeatMap(recording, onForward);
    const figure = element("figure");
    figure.append(this.map.element);
    const caption = element("figcaption", "", "position →, forward ↓; strong: confident, faded: committed earlier, ");
    caption.append(element("i"), " revised");
    figure.append(caption);
    this.section.append(this.figures(), this.blockBars(), figure, this.makeTokens());
  }

  get forwards() { return this.recording === null ? 0 : this.recording.forwards; }

  figures() {
    const { figures, forwards } = this.recording, list = element("dl");
    const shown = [
      ["tokens", figures.tokens], ["forwards", forwards], ["TPF", shownFigure(figures.tpf)], ["AFP", shownFigure(figures.afp)],
      ["tau", shownFigure(figures.tau)], ["revisions", figures.revised],
    ];
    for (const [name, value] of shown) {
      const pair = element("div");
      pair.append(element("dt", "", name), element("dd", "", value));
      list.append(pair);
    }
    return list;
  }

  blockBars() {
    const counts = this.recording.forwardsPerBlock, most = Math.max(1, ...counts);
    const list = element("ol", "blocks");
    list.setAttribute("aria-label", "Forwards of each block");
    this.bars = counts.map((count, number) => {
      const bar = element("li", "", count), height = element("i");
      height.style.height = `${Math.max(2, (28 * count) / most)}px`;
      bar.title = `block ${number + 1}: ${count} forwards`;
      bar.append(height);
      list.append(bar);
      return bar;
    });
    return list;
  }

  makeTokens() {
    const { block, length } = this.recording;
    this.tokens = element("div", "tokens");
    this.tokens.setAttribute("role", "group");
    this.tokens.setAttribute("aria-label", "Response");
    this.tokens.tabIndex = 0; // scrolls with the keyboard
    this.spans = [];
    this.pieces = [];
    for (let position = 0, size = 0; position < length; position++, size++) {
      if (position === 0 || block[position] !== block[position - 1] || size === MOST_IN_PIECE) {
        const at = { begin: position, forward: -1, isNear: true };
        const piece = { number: block[position], element: element("span", "block"), ...at };
        this.pieces.push(piece);
        this.tokens.append(piece.element);
        size = 0;
      }
      const span = element("span");
      span.dataset.position = position;
      this.spans.push(span);
      this.pieces.at(-1).element.append(span);
      this.pieces.at(-1).end = position + 1;
    }
    this.watchPieces();
    this.shownToken = new Uint32Array(length);
    this.shownClass = new Array(length).fill("");
    return this.tokens;
  }

  /* Keep track of the pieces in view and within one height of it: a step draws these alone. */
  watchPieces() {
    const pieceOf = new Map(this.pieces.map((piece) => [piece.element, piece]));
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const piece = pieceOf.get(target);
        piece.isNear = isIntersecting;
        if (isIntersecting) this.draw(piece);
      }
    }, { root: this.tokens, rootMargin: "100% 0px" });
    for (const piece of this.pieces) observer.observe(piece.element);
  }

  /* Show the response after a forward (0: before the first); touch only what has changed. */
  show(forward) {
    if (this.recording === null) return;
    forward = Math.min(forward, this.forwards);
    if (forward === this.forward) return;
    this.forward = forward;
    const open = this.markOpen(forward);
    const isElsewhere = open !== undefined && open !== this.followed;
    for (const piece of this.pieces) if (piece.isNear || isElsewhere) this.draw(piece);
    if (isElsewhere) this.follow(open);
    // What is out of view follows at rest, for whoever searches the page or lets it be read aloud.
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.drawAll(), IDLE);
    this.map.moveTo(forward);
  }

  drawAll() { for (const piece of this.pieces ?? []) this.draw(piece); }

  draw(piece) {
    const { forward } = this;
    if (piece.forward === forward) return;
    piece.forward = forward;
    const { token, texts } = this.recording;
    for (let position = piece.begin; position < piece.end; position++) {
      const shown = forward ? token[this.recording.at(forward, position)] : NO_TOKEN;
      if (shown !== this.shownToken[position]) {
        this.spans[position].textContent = texts[shown];
        this.shownToken[position] = shown;
      }
      const name = this.className(forward, position);
      if (name !== this.shownClass[position]) this.spans[position].className = this.shownClass[position] = name;
    }
  }

  className(forward, position) {
    if (forward === 0) return "s0";
    const { state, percent, firstRevision } = this.recording, at = this.recording.at(forward, position);
    if (state[at] < 2) return `s${state[at]}`;
    const strength = percent[at] === UNKNOWN ? 0 : Math.floor(percent[at] / 10);
    const revised = firstRevision[position] > forward ? "" : " revised";
    return `s${state[at]} c${strength}${revised}${this.recording.revisedAt(forward, position) ? " now" : ""}`;
  }

  /* Mark the open blocks, and return the first piece of the first one. */
  markOpen(forward) {
    const open = new Set();
    for (let position = 0; position < this.recording.length; position++) {
      if (this.recording.isOpen(forward, position)) open.add(this.recording.block[position]);
    }
    for (const piece of this.pieces) piece.element.classList.toggle("open", open.has(piece.number));
    this.bars.forEach((bar, number) => bar.classList.toggle("open", open.has(number)));
    return this.pieces.find((piece) => open.has(piece.number));
  }

  /* Scroll to the first open block. */
  follow(piece) {
    this.followed = piece;
    const scroll = (again) => {
      this.tokens.scrollTop = piece.element.offsetTop - this.tokens.clientHeight / 2;
      // What comes into view is laid out only then, and may be higher than it was taken to be.
      if (again && this.followed === piece) requestAnimationFrame(() => scroll(again - 1));
    };
    scroll(2);
  }

  /* What a position held so far, in lines; those that would not fit the window are counted. */
  history(position) {
    const lines = this.recording.history(position, this.forward), hidden = lines.length - MOST_LINES;
    return (hidden > 0 ? [`${hidden} earlier, and then`, ...lines.slice(hidden)] : lines).join("\n");
  }

  summary() {
    if (this.recording === null) return "no record of this prompt";
    const { shown, revised, decided, open } = this.recording.counts(this.forward);
    const blocks = [...open].map((number) => number + 1).join(", ");
    const where = blocks ? `block ${blocks}: ` : "";
    return `${where}${shown} new, ${revised} revised, ${decided} of ${this.recording.length} tokens shown`;
  }
}
