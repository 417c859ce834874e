// The page that follows a run: it asks for what is new every two seconds, and for the rest when it is looked at.
const OFTEN = 2000, SELDOM = 10000;
const indexes = new Map(); // by part: its version and its transitions
const figures = new Map(); // by name: a plot's version and its element
const lately = new Map(); // by key: the line of an action that was tried, which stays open
let token = "", begun = false;

// The token comes behind the # of the address, which no server is sent, and stays in this tab.
function takeToken() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (told.has("token")) {
    sessionStorage.setItem("token", told.get("token"));
    told.delete("token");
    history.replaceState(null, "", String(told) ? `#${told}` : location.pathname);
  }
  token = sessionStorage.getItem("token") ?? "";
}

class Closed extends Error {}

async function ask(...path) {
  const answer = await fetch(`/${path.map(encodeURIComponent).join("/")}`, { headers: { Authorization: `Bearer ${token}` } });
  const told = await answer.json();
  if (answer.status === 401) throw new Closed(told.error);
  if (!answer.ok) throw new Error(told.error);
  return told;
}

function say(selector, text) {
  get(selector).textContent = text;
  get(selector).hidden = !text;
}

function tell(now) {
  document.title = `${now.run}: ${now.state}`;
  say("#run", now.run);
  say("#state", now.state);
  get("#state").className = `badge ${now.state}`;
  say("#heard", now.state === "waiting" ? "no run has begun here yet: waiting for it" : now.elapsed);
  say("#trouble", now.reason || now.silent);
  get("#cards").replaceChildren(...(now.cards ?? []).map(([label, value, note]) =>
    el("div", "card", el("span", "label", label), el("b", "", value), el("span", "note", note))));
  get("#stages").replaceChildren(...(now.stages ?? []).map(stageLine));
  get("#messages").replaceChildren(...(now.messages ?? []).map((text) => el("p", "soft message", `› ${text}`)));
}

function stageLine({ name, count, share, when, ended }) {
  const bar = el("span", share === null ? "bar unknown" : "bar", el("span", ""));
  if (share !== null) bar.firstChild.style.width = `${100 * share}%`;
  return el("li", ended ? "ended" : "", el("span", "", name), el("span", "right", count), bar, el("span", "right", when));
}

// What actors have in hand, and what they tried last.
function tellActs({ doing = [], tried = [] }) {
  get("#acts").hidden = !doing.length && !tried.length;
  get("#doing").replaceChildren(...doing.map(([task, part, since, actor, id]) => el("li", "",
    el("span", "", task), el("span", "", part), el("span", "right", since), el("span", "soft", `${actor} · ${id}`))));
  const keys = new Set(tried.map(({ key }) => key));
  for (const key of lately.keys()) if (!keys.has(key)) lately.delete(key);
  const lines = tried.map(triedLine), shown = get("#tried").children;
  if (lines.length !== shown.length || lines.some((line, i) => shown[i] !== line)) get("#tried").replaceChildren(...lines);
}

function triedLine(of) {
  if (!lately.has(of.key)) {
    const pill = el("span", "pill", words(of.outcome));
    pill.style.background = colours[of.outcome];
    lately.set(of.key, el("details", "t",
      el("summary", "", el("span", ""), el("span", "", of.task), el("span", "wide", words(of.action)), el("span", "", pill),
        el("span", "", of.reward === null ? "" : `reward ${number(of.reward)}`), el("span", "wide", of.actor),
        el("span", "score", `${number(of.before)} → ${number(of.after)}`), el("span", "wide", "")),
      el("div", "body",
        el("div", "", el("h4", "", `Action ${of.id}`), el("pre", "", ...of.diff.map(([kind, text]) => el("i", kind, text)))),
        el("div", "", el("h4", "", "Log (end)"), el("pre", "log", of.log || "(empty)")))));
  }
  const line = lately.get(of.key);
  line.firstChild.firstChild.textContent = of.ago;
  return line;
}

// Fetch the index of each part that is new or another one, and show them all.
async function bring(parts) {
  const changed = parts.filter(([part, version]) => indexes.get(part)?.version !== version);
  const there = new Set(parts.map(([part]) => part));
  const gone = Array.from(indexes.keys()).filter((part) => !there.has(part));
  if (!changed.length && !gone.length) return;
  for (const part of gone) forget(part);
  await Promise.all(changed.map(async ([part, version]) => {
    const items = itemsOf(await ask("index", part));
    forget(part);
    indexes.set(part, { version, items });
  }));
  const items = parts.flatMap(([part]) => indexes.get(part).items);
  get("#none").hidden = items.length > 0;
  if (begun) {
    renew(items);
  } else if (items.length) {
    begun = true;
    begin({ block: (part) => ask("block", part) }, items);
  }
}

// What was known of a part; lines that are open stay as they were read.
function forget(part) {
  for (const { id } of indexes.get(part)?.items ?? []) if (!rows.get(id)?.open) rows.delete(id);
  indexes.delete(part);
  blocks.delete(part);
}

async function draw(plots) {
  await Promise.all(plots.map(async ([name, version, title, note]) => {
    if (figures.get(name)?.version === version) return;
    const { svg } = await ask("plot", name);
    const picture = el("img", "");
    picture.alt = title;
    picture.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    picture.onload = () => URL.revokeObjectURL(picture.src);
    const figure = el("figure", "", el("figcaption", "", el("h3", "", title), el("span", "", note)), picture);
    figure.hidden = !svg;
    figures.set(name, { version, figure });
  }));
  const shown = plots.map(([name]) => figures.get(name).figure);
  if (shown.some((figure, i) => get("#plots").children[i] !== figure)) get("#plots").replaceChildren(...shown);
}

async function look() {
  let next = document.hidden ? SELDOM : OFTEN;
  try {
    const now = await ask("now");
    get("#door").hidden = true;
    get("#live").hidden = false;
    tell(now);
    tellActs(now);
    await bring(now.parts ?? []);
    await draw(now.plots ?? []);
    if (!["starting", "running", "waiting"].includes(now.state)) next = SELDOM; // it may be resumed
  } catch (error) {
    if (error instanceof Closed) {
      get("#door").hidden = false;
      say("#trouble", token ? error.message : "");
      say("#heard", "this page needs the token that mlagent watch printed");
      return;
    }
    say("#trouble", error instanceof TypeError ? "mlagent watch does not answer: what is shown is what it last said" : error.message);
  }
  setTimeout(look, next);
}

colours = JSON.parse(get("#live").dataset.colours);
get("#door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = get("#token").value.trim();
  sessionStorage.setItem("token", token);
  look();
});
takeToken();
look();
