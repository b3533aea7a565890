"use strict";

const root = document.documentElement;
const main = document.querySelector("main[data-live]"); // a page that updates by itself
const get = (id) => document.getElementById(id);

function localTimes(within) {
  for (const time of within.querySelectorAll("time")) {
    time.title = time.dateTime;
    time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

// -- keys: the buttons of the bar have them, too

function step(forward) {
  const stops = [...document.querySelectorAll(".turn, .row")].filter((stop) => stop.offsetHeight);
  const edge = 60; // the bar's height, and some
  const next = forward
    ? stops.find((stop) => stop.getBoundingClientRect().top > edge)
    : stops.findLast((stop) => stop.getBoundingClientRect().top < edge - 20);
  next?.scrollIntoView({ block: "start" });
  next?.querySelector("a")?.focus({ preventScroll: true });
}

function fold(kind) {
  const all = [...document.querySelectorAll(`.${kind} > details`)];
  const open = !all.some((each) => each.open);
  for (const each of all) each.open = open;
}

function flipTheme() {
  const dark = root.classList.contains("dark")
    || (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.setItem("theme", root.className = dark ? "light" : "dark");
}

const keys = {
  j: () => step(true),
  k: () => step(false),
  g: () => scrollTo(0, 0),
  G: () => scrollTo(0, document.body.scrollHeight),
  t: () => fold("call"),
  r: () => fold("reasoning"),
  f: () => document.body.classList.toggle("failures"),
  d: flipTheme,
  u: () => location.assign("/"),
  s: () => location.assign("/system"),
  "/": () => document.querySelector("[type=search]")?.focus(),
  "?": () => get("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});
for (const button of document.querySelectorAll("[data-key]")) button.addEventListener("click", keys[button.dataset.key]);

// -- news: the server sends elements to put in their places

function put([id, parent, html]) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  const fresh = holder.content.firstElementChild;
  localTimes(fresh);
  const old = get(id);
  if (!old) return get(parent)?.append(fresh);
  for (const details of old.querySelectorAll("details[open]")) {
    const block = details.closest("[id]").id;
    const same = fresh.id === block ? fresh : fresh.querySelector(`#${CSS.escape(block)}`);
    if (same?.querySelector("details")) same.querySelector("details").open = true;
  }
  if (!old.isEqualNode(fresh)) old.replaceWith(fresh);
}

let stream;
function follow() {
  stream?.close();
  const state = get("live");
  const url = new URL(main.dataset.live, location.href);
  url.searchParams.set("after", main.dataset.after);
  stream = new EventSource(url);
  stream.onopen = () => { state.textContent = "live"; state.className = "on"; };
  stream.onmessage = (event) => {
    const isAtEnd = innerHeight + scrollY > document.body.scrollHeight - 80;
    JSON.parse(event.data).forEach(put);
    main.dataset.after = event.lastEventId;
    if (isAtEnd) scrollTo(0, document.body.scrollHeight);
  };
  stream.addEventListener("reload", () => location.reload());
  stream.addEventListener("gone", () => { stream.close(); state.textContent = "deleted"; state.className = "off"; });
  stream.onerror = () => {
    state.textContent = "reconnecting"; state.className = "off";
    // The browser itself tries again unless the answer was an error.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || follow(), 2000);
  };
}

// -- the page begins

root.className = localStorage.getItem("theme") ?? "";
localTimes(document);
if (matchMedia("(max-width: 50rem)").matches) document.querySelector(".prompts")?.removeAttribute("open");
if (main) {
  // A browser opens few connections to one server: a hidden page gives its one back.
  document.addEventListener("visibilitychange", () => { stream?.close(); if (!document.hidden) follow(); });
  if (!document.hidden) follow();
  const turns = document.querySelectorAll(".turn");
  if (!location.hash && !location.search && turns.length > 1 && document.body.scrollHeight > 3 * innerHeight) {
    turns[turns.length - 1].scrollIntoView();
  }
}
