/* Controls: slider, keys, playing, prompts, theme, and the history of a token. */

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const root = document.documentElement, tooltip = byId("history");
const [slider, playButton, promptSelect] = ["slider", "play", "prompt"].map(byId);
let panels = [], opened = 0, forward = 0, last = 0, timer = null, due = 0, summarized = 0;

function show(next) {
  forward = Math.min(Math.max(next, 0), last);
  panels.forEach((panel) => panel.show(forward));
  slider.value = forward;
  slider.setAttribute("aria-valuetext", `forward ${forward} of ${last}`);
  byId("forward").textContent = `forward ${forward} of ${last}`;
  hideHistory();
  // A screen reader cannot follow a film: while playing, once in two seconds.
  if (timer === null || performance.now() - summarized > 2000) summarize();
}

function summarize() {
  summarized = performance.now();
  const several = panels.length > 1;
  const parts = panels.map((panel) => (several ? `${panel.label}: ` : "") + panel.summary());
  byId("summary").textContent = `Forward ${forward} of ${last}. ${parts.join("; ")}`;
}

function pause() {
  if (timer === null) return;
  cancelAnimationFrame(timer);
  timer = null;
  playButton.textContent = "▶ play";
  playButton.setAttribute("aria-label", "Play");
  playButton.setAttribute("aria-pressed", "false");
  summarize();
}

function play() {
  if (forward >= last) show(0);
  due = performance.now();
  playButton.textContent = "❚❚ pause";
  playButton.setAttribute("aria-label", "Pause");
  playButton.setAttribute("aria-pressed", "true");
  timer = requestAnimationFrame(tick);
}

function tick(now) {
  const period = 1000 / Number(byId("speed").value);
  if (now >= due) {
    due = Math.max(due + period, now);
    show(forward + 1);
  }
  if (forward >= last) pause();
  else timer = requestAnimationFrame(tick);
}

const toggle = () => (timer === null ? play() : pause());
const go = (next) => { pause(); show(next); };

/* The theme is the system's until the button says otherwise. */
const systemDark = matchMedia("(prefers-color-scheme: dark)");
function setTheme(isDark) {
  root.dataset.theme = isDark ? "dark" : "light";
  panels.forEach((panel) => panel.map && panel.map.draw());
}
const toggleTheme = () => setTheme(root.dataset.theme !== "dark");

function showHistory(span) {
  const panel = panels.find((candidate) => candidate.section.contains(span));
  const lines = panel.history(Number(span.dataset.position));
  if (!lines) return;
  tooltip.textContent = lines;
  tooltip.hidden = false;
  span.setAttribute("aria-describedby", "history");
  const box = span.getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = tooltip;
  const left = Math.min(box.left, root.clientWidth - width - 8);
  const isAbove = box.bottom + height + 6 > byId("summary").getBoundingClientRect().top && box.top > height + 6;
  tooltip.style.left = `${Math.max(0, left) + scrollX}px`;
  tooltip.style.top = `${(isAbove ? box.top - height - 6 : box.bottom + 6) + scrollY}px`;
}
function hideHistory() {
  tooltip.hidden = true;
  document.querySelectorAll("[aria-describedby=history]").forEach((span) => span.removeAttribute("aria-describedby"));
}

/* Focus the next or the previous revised token on the page. */
function focusRevised(step) {
  pause();
  panels.forEach((panel) => panel.drawAll());
  const revised = [...document.querySelectorAll(".tokens .revised")];
  if (!revised.length) return;
  const current = revised.indexOf(document.activeElement);
  const next = current < 0 ? (step > 0 ? 0 : revised.length - 1) : (current + step + revised.length) % revised.length;
  revised[next].tabIndex = -1;
  revised[next].focus();
}

const KEYS = {
  ArrowRight: () => go(forward + 1), ArrowLeft: () => go(forward - 1), Home: () => go(0), End: () => go(last),
  " ": toggle, n: () => focusRevised(1), p: () => focusRevised(-1), t: toggleTheme, Escape: hideHistory,
};

document.addEventListener("keydown", (event) => {
  const isControl = event.ctrlKey || event.metaKey || event.altKey;
  const ownKeys = event.target.closest?.("select") || (event.key === " " && event.target.closest?.("button"));
  if (isControl || ownKeys || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});
slider.addEventListener("input", () => go(Number(slider.value)));
playButton.addEventListener("click", toggle);
byId("back").addEventListener("click", () => go(forward - 1));
byId("step").addEventListener("click", () => go(forward + 1));
byId("theme").addEventListener("click", toggleTheme);
systemDark.addEventListener("change", () => setTheme(systemDark.matches));
promptSelect.addEventListener("change", () => openPrompt(promptSelect.value));
const ofToken = (event) => event.target.closest?.(".tokens [data-position]");
byId("panels").addEventListener("mouseover", (event) => ofToken(event) ? showHistory(ofToken(event)) : hideHistory());
byId("panels").addEventListener("mouseleave", hideHistory);
byId("panels").addEventListener("focusin", (event) => ofToken(event) && showHistory(ofToken(event)));

/* Show one prompt in all panels. */
async function openPrompt(index, first = 0) {
  const number = ++opened;
  pause();
  const made = data.traces.map(async ({ label, rows }) => {
    const recording = Object.hasOwn(rows, index) ? await Recording.read(rows[index], data.tokens) : null;
    return new Panel(label, recording, go);
  });
  const complete = await Promise.all(made);
  if (number !== opened) return;  // another prompt has been chosen meanwhile
  panels = complete;
  byId("panels").replaceChildren(...panels.map((panel) => panel.section));
  last = Math.max(...panels.map((panel) => panel.forwards));
  slider.max = last;
  show(first);
}

async function start() {
  const indices = [...new Set(data.traces.flatMap(({ rows }) => Object.keys(rows)))].sort((a, b) => a - b);
  for (const index of indices) {
    const row = data.traces.map(({ rows }) => rows[index]).find((candidate) => candidate !== undefined);
    promptSelect.append(new Option(`${index}: ${row.prompt.slice(0, 60)}`, index));
  }
  byId("prompts").hidden = indices.length < 2;
  // Five changes of the page in a second are too many for those who have asked for less motion.
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) byId("speed").value = "1";
  setTheme(systemDark.matches);
  // page.html#prompt=3&forward=12 opens there.
  const wanted = new URLSearchParams(location.hash.slice(1)), index = wanted.get("prompt");
  if (indices.includes(index)) promptSelect.value = index;
  await openPrompt(promptSelect.value, Number.parseInt(wanted.get("forward") ?? "0", 10) || 0);
  root.dataset.ready = "true";
}

start();
