"use strict";
// The trajectory browser. What a run wrote becomes text nodes only; a transition's details are unpacked when it is opened.
const PAGE = 50;
const get = (selector) => document.querySelector(selector);
const filters = Array.from(document.querySelectorAll(".filters select[data-key]"));
const blocks = new Map();
const texts = new Map();
let index, colours, all, chosen, page = 0, asked = 0;

async function unpack(script) {
  const bytes = Uint8Array.from(atob(script.textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function block(step) {
  if (!blocks.has(step)) blocks.set(step, unpack(get(`script[data-step="${step}"]`)));
  return blocks.get(step);
}

function el(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children.filter((child) => child !== null));
  return made;
}

function number(value) {
  if (value === null) return "–";
  return value.toFixed([10, 100, 1000].filter((limit) => Math.abs(value) < limit).length);
}

function signed(value, digits = 3) {
  return value === null ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
}

const tone = (value) => (value > 0 ? "good" : value < 0 ? "bad" : "");
const words = (name) => name.replaceAll("_", " ");
// What an evaluation tried has its stage in the place of a step.
const part = (step) => (typeof step === "number" ? `step ${step}` : step);

function row(i) {
  const pill = el("span", "pill", words(index.outcome[i]));
  pill.style.background = colours[index.outcome[i]];
  const summary = el("summary", "",
    el("span", "", part(index.step[i])), el("span", "", index.task[i]), el("span", "wide", words(index.action[i])),
    el("span", "", pill, index.finding[i].length ? el("b", "suspicious", " !") : null),
    el("span", "", `reward ${number(index.reward[i])}`),
    el("span", `wide ${tone(index.advantage[i])}`, index.advantage[i] === null ? "" : `adv. ${signed(index.advantage[i])}`),
    el("span", "score", `${number(index.before[i])} → ${number(index.after[i])}`),
    el("span", "wide right", `${index.seconds[i].toFixed(1)} s`));
  const made = el("details", "t", summary);
  made.addEventListener("toggle", () => { if (made.open && made.children.length === 1) open(made, i); });
  return made;
}

async function open(made, i) {
  const { prompts, rows } = await block(index.step[i]);
  if (made.children.length > 1) return;
  const found = rows[all[i].place];
  const diff = el("pre", "", ...found.diff.map(([kind, line]) => el("i", kind, line)));
  made.append(el("div", "body",
    el("div", "", el("h4", "", "Action"), diff),
    el("div", "", el("h4", "", "Log (end)"), el("pre", "log", found.log || "(empty)")),
    findingsText(found),
    el("div", "boxes", rewardBox(i, found), learnerBox(i), timeBox(found), versionBox(found), identityBox(i, found)),
    versionText(found),
    promptBox(found, prompts)));
}

function table(title, entries, ...more) {
  const list = el("dl", "", ...entries.flatMap(([name, value]) => [el("dt", "", name), el("dd", "", value)]));
  return el("div", "box", el("h4", "", title), list, ...more);
}

function rewardBox(i, found) {
  const parts = Object.entries(found.parts).map(([name, value]) => [words(name), number(value)]);
  const fault = found.fault ? [["fault", words(found.fault)]] : [];
  return table("Reward", [["reward", number(index.reward[i])], ...parts, ...fault,
    ["metric", `${number(index.before[i])} → ${number(index.after[i])}`], ["on test", number(found.test)],
    ["script got to", words(found.milestones.at(-1) ?? "–")]]);
}

function findingsText(found) {
  const findings = Object.entries(found.findings);
  if (!findings.length) return null;
  return el("div", "whole", el("h4", "", "Suspicious"),
    el("dl", "", ...findings.flatMap(([name, why]) => [el("dt", "suspicious", words(name)), el("dd", "", why)])));
}

function learnerBox(i) {
  const ratio = index.ratio[i];
  return table("Learner", [["advantage", signed(index.advantage[i])],
    ["ratio", ratio === null ? "–" : ratio.toFixed(4)],
    ["loss", index.loss[i] === null ? "–" : signed(index.loss[i], 5)]]);
}

function timeBox(found) {
  const parts = Object.entries(found.seconds);
  const entries = parts.map(([name, value]) => [name, `${value.toFixed(2)} s`]);
  return table(found.origin === "run" ? "Time" : `Time (${found.origin})`, entries,
    strip(parts.map(([name, value]) => [value, colours[name], `${name} ${value.toFixed(2)} s`])));
}

function versionBox(found) {
  const entries = found.spans.map(([version, start, end]) => [`version ${version}`, `tokens ${start}–${end}`]);
  return table("Weights per token", entries,
    strip(found.spans.map(([version, start, end]) => [end - start, shade(found, version), `version ${version}`])));
}

function identityBox(i, found) {
  const link = el("a", "", index.id[i]);
  link.href = `#${new URLSearchParams({ id: index.id[i] })}`;
  return table("Where", [["id", link], ["group", found.group], ["state", found.state], ["actor", index.actor[i]],
    ["tokens", `${found.tokens[0]} + ${found.tokens[1]}`], ["memory", `${found.peak_mb.toFixed(0)} MiB`]]);
}

function strip(parts) {
  return el("div", "strip", ...parts.map(([share, colour, title]) => {
    const part = el("span", "");
    part.style.flexGrow = share;
    part.style.background = colour;
    part.title = title;
    return part;
  }));
}

// Older weights are paler.
function shade(found, version) {
  const newest = Math.max(...found.spans.map(([v]) => v));
  return `hsl(222 70% ${45 + Math.min(3, newest - version) * 14}%)`;
}

function versionText(found) {
  if (!found.spans.some(([, , , text]) => text)) return null;
  const parts = found.spans.map(([version, , , text]) => {
    const part = el("span", "", text);
    part.style.borderColor = shade(found, version);
    part.title = `version ${version}`;
    return part;
  });
  return el("div", "whole", el("h4", "", "Response, underlined by weight version"), el("pre", "log versions", ...parts));
}

function promptBox(found, prompts) {
  const text = found.prompt === null ? "No tokenizer was found in the run's checkpoints or the model's folder, so the "
    + "prompt is known only as tokens." : prompts[found.prompt];
  return el("details", "whole prompt", el("summary", "", `Prompt (${found.tokens[0]} tokens)`), el("pre", "log", text));
}

// What a filter takes transition i for: a suspicious one for each of its findings, and for any.
function valuesOf(filter, i) {
  const value = index[filter.dataset.key][i];
  return Array.isArray(value) ? (value.length ? ["any", ...value] : ["none"]) : [String(value)];
}

// What is searched: the action, the log's end and what was found, as they are shown.
async function textOf({ i, place }) {
  if (!texts.has(i)) {
    const found = (await block(index.step[i])).rows[place];
    const lines = [index.id[i], words(found.fault), ...found.diff.map(([, line]) => line), found.log, ...Object.values(found.findings)];
    texts.set(i, lines.join("\n").toLowerCase());
  }
  return texts.get(i);
}

async function choose(first = 0) {
  const mine = ++asked, wanted = filters.filter((filter) => filter.value);
  let found = all.filter(({ i }) => wanted.every((filter) => valuesOf(filter, i).includes(filter.value)));
  const query = get("#search").value.trim().toLowerCase();
  if (query) {
    get("#range").textContent = "searching …";
    const read = await Promise.all(found.map(textOf));
    if (mine !== asked) return; // something else is looked for by now
    found = found.filter((_, place) => read[place].includes(query));
  }
  chosen = found;
  const [key, sign] = get("#order").value.split(":");
  if (key) {
    const rank = ({ i }) => (index[key][i] === null ? Infinity : sign * index[key][i]);
    chosen.sort((a, b) => rank(a) - rank(b) || b.i - a.i);
  } else {
    chosen.reverse();
  }
  show(Math.min(first, Math.max(0, Math.ceil(chosen.length / PAGE) - 1)));
}

const inputs = () => [["q", get("#search")], ...filters.map((filter) => [filter.dataset.key, filter]), ["order", get("#order")]];

// The address tells what is looked for, so that it can be shared and gone back to.
function remember() {
  const told = new URLSearchParams(inputs().filter(([, input]) => input.value).map(([key, input]) => [key, input.value]));
  if (page) told.set("page", page + 1);
  history.replaceState(null, "", String(told) ? `#${told}` : location.pathname);
}

function show(number) {
  page = number;
  const end = Math.min((page + 1) * PAGE, chosen.length);
  const count = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
  get("#transitions").replaceChildren(...chosen.slice(page * PAGE, end).map(({ i }) => row(i)));
  get("#range").textContent = chosen.length ? `${count(page * PAGE + 1)}–${count(end)} of ${count(chosen.length)}` : "none";
  get("#back").disabled = page === 0;
  get("#forth").disabled = end === chosen.length;
  remember();
}

function offer(filter) {
  const counts = new Map();
  for (const { i } of all) for (const value of valuesOf(filter, i)) counts.set(value, (counts.get(value) || 0) + 1);
  const values = Array.from(counts.keys()); // steps are in the order of the run
  for (const value of filter.dataset.key === "step" ? values.reverse() : values.sort()) {
    const name = ["outcome", "finding"].includes(filter.dataset.key) ? words(value) : value; // others as they are elsewhere
    filter.add(new Option(`${name} (${counts.get(value)})`, value));
  }
  filter.addEventListener("change", () => choose());
}

// The address `report.html#id=ID` opens that transition; `#task=wine&step=base&q=Ridge` shows what is so.
async function follow() {
  const told = new URLSearchParams(location.hash.slice(1)), i = index.id.indexOf(told.get("id"));
  for (const [key, input] of inputs()) {
    input.value = i < 0 ? told.get(key) ?? "" : "";
    if (input.selectedIndex < 0) input.value = ""; // a filter has no such value
  }
  await choose(Math.max(1, parseInt(told.get("page")) || 1) - 1);
  if (i >= 0) {
    const place = chosen.findIndex((one) => one.i === i);
    show(Math.floor(place / PAGE));
    history.replaceState(null, "", `#${new URLSearchParams({ id: index.id[i] })}`);
    const made = get("#transitions").children[place % PAGE];
    made.open = true;
    made.scrollIntoView();
  } else if (String(told)) {
    get("#transitions-head").scrollIntoView();
  }
}

async function start() {
  if (!("DecompressionStream" in window)) {
    get("#notice").textContent = "This browser is too old to unpack the transitions (it has no DecompressionStream).";
    return;
  }
  colours = JSON.parse(get("#index").dataset.colours);
  index = await unpack(get("#index"));
  const places = new Map();
  all = index.step.map((step, i) => {
    places.set(step, (places.has(step) ? places.get(step) : -1) + 1);
    return { i, place: places.get(step) };
  });
  filters.forEach(offer);
  let typing;
  get("#search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(choose, 250); });
  get("#order").addEventListener("change", () => choose());
  get("#back").addEventListener("click", () => show(page - 1));
  get("#forth").addEventListener("click", () => show(page + 1));
  get("#notice").hidden = true;
  get(".filters").hidden = false;
  follow();
  addEventListener("hashchange", follow);
}

if (get("#index")) start();
