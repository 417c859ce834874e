"use strict";
// The browser of transitions. What a run wrote becomes text nodes only; details are asked for when one is opened.
const get = (selector) => document.querySelector(selector);
const filters = Array.from(document.querySelectorAll(".filters select[data-key]"));
const blocks = new Map();
const texts = new WeakMap();

const PAGE = Number(get("#transitions")?.dataset.page); // lines of a page
const rows = new Map(); // by the id of a transition: its line, which stays open where the list is made anew
let source, colours, all = [], chosen = [], page = 0, asked = 0;

// What a page has to offer is a `source`: block(part) has the details of its transitions, in the order of its index.
function block(part) {
  if (!blocks.has(part)) blocks.set(part, source.block(part));
  return blocks.get(part);
}

// The transitions of an index: an object of lists becomes a list of objects, each with its place in its part.
function itemsOf(index) {
  const places = new Map();
  return index.id.map((_, i) => {
    const place = places.get(index.step[i]) ?? 0;
    places.set(index.step[i], place + 1);
    return Object.fromEntries([["place", place], ...Object.keys(index).map((name) => [name, index[name][i]])]);
  });
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

function row(of) {
  if (!rows.has(of.id)) rows.set(of.id, made(of));
  return rows.get(of.id);
}

function made(of) {
  const pill = el("span", "pill", words(of.outcome));
  pill.style.background = colours[of.outcome];
  const summary = el("summary", "",
    el("span", "", part(of.step)), el("span", "", of.task), el("span", "wide", words(of.action)),
    el("span", "", pill, of.finding.length ? el("b", "suspicious", " !") : null),
    el("span", "", `reward ${number(of.reward)}`),
    el("span", `wide ${tone(of.advantage)}`, of.advantage === null ? "" : `adv. ${signed(of.advantage)}`),
    el("span", "score", `${number(of.before)} → ${number(of.after)}`),
    el("span", "wide right", `${of.seconds.toFixed(1)} s`));
  const line = el("details", "t", summary);
  line.addEventListener("toggle", () => { if (line.open && line.children.length === 1) open(line, of); });
  return line;
}

async function open(line, of) {
  const { prompts, rows } = await block(of.step);
  if (line.children.length > 1) return;
  const found = rows[of.place];
  const diff = el("pre", "", ...found.diff.map(([kind, text]) => el("i", kind, text)));
  line.append(el("div", "body",
    el("div", "", el("h4", "", "Action"), diff),
    el("div", "", el("h4", "", "Log (end)"), el("pre", "log", found.log || "(empty)")),
    findingsText(found),
    el("div", "boxes", rewardBox(of, found), learnerBox(of), timeBox(found), versionBox(found), identityBox(of, found)),
    versionText(found),
    promptBox(found, prompts)));
}

function table(title, entries, ...more) {
  const list = el("dl", "", ...entries.flatMap(([name, value]) => [el("dt", "", name), el("dd", "", value)]));
  return el("div", "box", el("h4", "", title), list, ...more);
}

function rewardBox(of, found) {
  const parts = Object.entries(found.parts).map(([name, value]) => [words(name), number(value)]);
  const fault = found.fault ? [["fault", words(found.fault)]] : [];
  return table("Reward", [["reward", number(of.reward)], ...parts, ...fault,
    ["metric", `${number(of.before)} → ${number(of.after)}`], ["on test", number(found.test)],
    ["script got to", words(found.milestones.at(-1) ?? "–")]]);
}

function findingsText(found) {
  const findings = Object.entries(found.findings);
  if (!findings.length) return null;
  return el("div", "whole", el("h4", "", "Suspicious"),
    el("dl", "", ...findings.flatMap(([name, why]) => [el("dt", "suspicious", words(name)), el("dd", "", why)])));
}

function learnerBox(of) {
  const ratio = of.ratio;
  return table("Learner", [["advantage", signed(of.advantage)],
    ["ratio", ratio === null ? "–" : ratio.toFixed(4)],
    ["loss", of.loss === null ? "–" : signed(of.loss, 5)]]);
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

function identityBox(of, found) {
  const link = el("a", "", of.id);
  link.href = `#${new URLSearchParams({ id: of.id })}`;
  return table("Where", [["id", link], ["group", found.group], ["state", found.state], ["actor", of.actor],
    ["tokens", `${found.tokens[0]} + ${found.tokens[1]}`], ["memory", found.peak_mb === null ? "–" : `${found.peak_mb.toFixed(0)} MiB`]]);
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
  const text = found.prompt === null ? "The prompt's text is not known: it was not kept, as for agents beside the run's own, "
    + "or no tokenizer was found in the run's checkpoints or the model's folder." : prompts[found.prompt];
  return el("details", "whole prompt", el("summary", "", `Prompt (${found.tokens[0]} tokens)`), el("pre", "log", text));
}

// What a filter takes a transition for: a suspicious one for each of its findings, and for any.
function valuesOf(filter, of) {
  const value = of[filter.dataset.key];
  return Array.isArray(value) ? (value.length ? ["any", ...value] : ["none"]) : [String(value)];
}

// What is searched: the action, the log's end and what was found, as they are shown.
async function textOf(of) {
  if (!texts.has(of)) {
    const found = (await block(of.step)).rows[of.place];
    const lines = [of.id, words(found.fault), ...found.diff.map(([, line]) => line), found.log, ...Object.values(found.findings)];
    texts.set(of, lines.join("\n").toLowerCase());
  }
  return texts.get(of);
}

async function choose(first = 0) {
  const mine = ++asked, wanted = filters.filter((filter) => filter.value);
  let found = all.filter((of) => wanted.every((filter) => valuesOf(filter, of).includes(filter.value)));
  const query = get("#search").value.trim().toLowerCase();
  if (query) {
    get("#range").textContent = "searching …";
    const read = await Promise.all(found.map(textOf));
    if (mine !== asked) return; // something else is looked for by now
    found = found.filter((_, place) => read[place].includes(query));
  }
  const [key, sign] = get("#order").value.split(":");
  chosen = found.reverse();
  if (key) {
    const rank = (of) => (of[key] === null ? Infinity : sign * of[key]);
    chosen.sort((a, b) => rank(a) - rank(b)); // of equals the newest comes first, as sorting leaves them
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
  get("#transitions").replaceChildren(...chosen.slice(page * PAGE, end).map(row));
  get("#range").textContent = chosen.length ? `${count(page * PAGE + 1)}–${count(end)} of ${count(chosen.length)}` : "none";
  get("#back").disabled = page === 0;
  get("#forth").disabled = end === chosen.length;
  remember();
}

// The values of a filter that there are; what is chosen stays so.
function offer(filter) {
  const counts = new Map(), kept = filter.value;
  for (const of of all) for (const value of valuesOf(filter, of)) counts.set(value, (counts.get(value) || 0) + 1);
  const values = Array.from(counts.keys()); // steps are in the order of the run
  filter.length = 1; // but for "all"
  for (const value of filter.dataset.key === "step" ? values.reverse() : values.sort()) {
    const name = ["outcome", "finding"].includes(filter.dataset.key) ? words(value) : value; // others as they are elsewhere
    filter.add(new Option(`${name} (${counts.get(value)})`, value));
  }
  filter.value = counts.has(kept) ? kept : "";
}

// The address `#id=ID` opens that transition; `#task=wine&step=base&q=Ridge` shows what is so.
async function follow() {
  const told = new URLSearchParams(location.hash.slice(1)), i = all.findIndex((of) => of.id === told.get("id"));
  for (const [key, input] of inputs()) {
    input.value = i < 0 ? told.get(key) ?? "" : "";
    if (input.selectedIndex < 0) input.value = ""; // a filter has no such value
  }
  await choose(Math.max(1, parseInt(told.get("page")) || 1) - 1);
  if (i >= 0) {
    const place = chosen.indexOf(all[i]);
    show(Math.floor(place / PAGE));
    history.replaceState(null, "", `#${new URLSearchParams({ id: all[i].id })}`);
    const line = get("#transitions").children[place % PAGE];
    line.open = true;
    line.scrollIntoView();
  } else if (String(told)) {
    get("#transitions-head").scrollIntoView();
  }
}

// Have the page show these transitions, oldest first, as its address asks for.
function begin(from, items) {
  source = from;
  all = items;
  filters.forEach(offer);
  filters.forEach((filter) => filter.addEventListener("change", () => choose()));
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

// The same for a page that shows others by now: what is looked for, and where, stays.
function renew(items) {
  all = items;
  filters.forEach(offer);
  choose(page);
}
