"use strict";

// Everything that comes from the database is shown as text, never as HTML.

const FRAMES_MAX = 200;
const ROWS_MAX = 1000;
const SECONDS = 120;
const SHOWN_MS = 1200;
const RETRY_MS = 1000;
const OPERATORS = [
  "_and", "_or", "_eq", "_neq", "_lt", "_lte", "_gt", "_gte", "_in", "_nin", "_null", "_nnull", "_contains",
  "_ncontains", "_icontains", "_starts_with", "_ends_with", "_between", "_nbetween", "_empty", "_nempty", "_some", "_none",
];

const $ = (id) => document.getElementById(id);
const collections = new Map();
const rows = new Map();
const frames = [];
const perSecond = new Array(SECONDS).fill(0);
let socket = null;
let tab = "frames";
let columns = [];
let question = "0"; // the uid of the last one; what still comes for an earlier one is not shown
let retry = null;
let wasOpen = false; // with this token

// --- the connection ---

function socketUrl() {
  const url = new URL("websocket", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

function connect() {
  clearTimeout(retry);
  socket?.close();
  const url = socketUrl();
  if ($("token").value) url.searchParams.set("access_token", $("token").value.trim());
  const opened = new WebSocket(url);
  socket = opened;
  say("connecting", false);
  complain("");
  opened.onopen = () => {
    wasOpen = true;
    say("connected", true);
    send({ type: "collections", uid: "collections" });
  };
  opened.onmessage = ({ data }) => { if (socket === opened) receive(data); };
  opened.onclose = ({ code, reason }) => {
    if (socket !== opened) return;
    if (code === 4401 || !wasOpen) {
      say(`closed with ${code}${reason ? `: ${reason}` : ""}`, false);
      return complain(code === 4401 ? "The bridge wants a valid token." : "The bridge wants a valid token, or it does not run.");
    }
    say(`closed with ${code}, connecting again`, false);
    retry = setTimeout(connect, code === 1012 ? JSON.parse(reason).retry_ms : RETRY_MS);
  };
}

function connectAnew() {
  wasOpen = false;
  clearRows();
  connect();
}

function send(message) {
  if (socket?.readyState !== WebSocket.OPEN) return complain("Not connected.");
  note("→", JSON.stringify(message));
  socket.send(JSON.stringify(message));
}

function say(text, isOpen) {
  $("state").textContent = text;
  $("state").classList.toggle("open", isOpen);
}

function complain(text) {
  $("complaint").textContent = text;
  $("complaint").hidden = !text;
}

// --- what comes in ---

function receive(text) {
  note("←", text);
  const message = JSON.parse(text);
  if (message.status === "error") return complain(`${message.error.code}: ${message.error.message}`);
  if (message.type === "ping") return send({ type: "pong" });
  if (message.type === "collections") return takeCollections(message.data);
  if (message.type === "subscription") takeEvent(message);
}

function takeCollections(found) {
  const chosen = $("collection").value;
  collections.clear();
  for (const each of found) collections.set(each.collection, each);
  $("collection").replaceChildren(...found.map((each) => new Option(each.collection)));
  if (collections.has(chosen)) $("collection").value = chosen;
  if (found.length) follow();
  else complain("There is nothing to read: attach a table, or give a token whose role may SELECT one.");
  showTab();
}

function takeEvent(message) {
  if (message.event === "unsubscribe" || message.uid !== question) return;
  const found = Array.isArray(message.data) ? message.data : [];
  if (message.event === "init") {
    clearRows();
    showColumns(found);
  }
  if (message.event !== "init") perSecond[SECONDS - 1] += Math.max(found.length, 1);
  if (message.tx?.at) $("latency").textContent = Math.max(0, Date.now() - Date.parse(message.tx.at)).toFixed(0);
  for (const each of found) message.event === "delete" ? removeRow(each) : putRow(each, message.event);
  $("count").textContent = rows.size;
}

// --- the table of rows ---

function keyOf(row) {
  const key = collections.get($("collection").value)?.key ?? [];
  if (!key.length || !key.every((name) => name in row)) return null;
  return JSON.stringify(key.map((name) => String(row[name])));
}

function keyOfDeleted(key) {
  const names = collections.get($("collection").value)?.key ?? [];
  return JSON.stringify(names.length > 1 ? names.map((name) => String(key?.[name])) : [String(key)]);
}

function clearRows() {
  rows.clear();
  $("rows").tBodies[0].replaceChildren();
  $("count").textContent = 0;
}

function showColumns(found) {
  const names = new Set();
  for (const row of found) for (const name of Object.keys(row)) names.add(name);
  columns = [...names];
  const head = document.createElement("tr");
  head.append(...columns.map((name) => cell("th", name)));
  $("rows").tHead.replaceChildren(head);
}

function cell(kind, value) {
  const made = document.createElement(kind);
  made.textContent = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "");
  made.title = made.textContent;
  return made;
}

function putRow(row, event) {
  if (Object.keys(row).some((name) => !columns.includes(name))) showColumns([Object.fromEntries(columns.map((name) => [name, 0])), row]);
  const key = keyOf(row) ?? Symbol("no key");
  const line = rows.get(key) ?? document.createElement("tr");
  line.replaceChildren(...columns.map((name) => cell("td", row[name])));
  if (event === "init") $("rows").tBodies[0].append(line);
  else if (!rows.has(key)) $("rows").tBodies[0].prepend(line);
  rows.set(key, line);
  if (event !== "init") mark(line, event);
  if (rows.size > ROWS_MAX) forgetOldest();
}

function removeRow(deleted) {
  const key = keyOfDeleted(deleted);
  const line = rows.get(key);
  if (!line) return;
  rows.delete(key);
  mark(line, "delete", () => line.remove());
}

function mark(line, event, then = () => {}) {
  line.className = event;
  setTimeout(() => { if (line.className === event) line.className = ""; then(); }, SHOWN_MS);
}

function forgetOldest() {
  const [key, line] = rows.entries().next().value;
  rows.delete(key);
  line.remove();
}

// --- the question ---

function query() {
  const asked = {};
  const fields = $("fields").value.split(",").map((each) => each.trim()).filter(Boolean);
  if (fields.length) asked.fields = fields;
  if ($("filter").value.trim()) asked.filter = JSON.parse($("filter").value);
  return asked;
}

function follow() {
  complain("");
  let asked;
  try {
    asked = query();
  } catch (error) {
    return complain(`The filter is not JSON: ${error.message}`);
  }
  if (!$("collection").value) return complain("There is no collection to follow.");
  send({ type: "unsubscribe", uid: question });
  question = String(Number(question) + 1);
  const message = { type: "subscribe", collection: $("collection").value, query: asked, tx: true, uid: question };
  if ($("event").value) message.event = $("event").value;
  clearRows();
  send(message);
  showTab();
}

// --- completion: names of the catalogue, and operators in a filter ---

function fieldsAt(path) {
  let collection = collections.get($("collection").value);
  for (const name of path) {
    const relation = collection?.relations.find((each) => each.field === name);
    collection = relation && collections.get(relation.collection);
  }
  if (!collection) return [];
  const relations = collection.relations.map((each) => ({ name: each.field, hint: `→ ${each.collection}` }));
  return [...collection.fields.map((each) => ({ name: each.field, hint: each.type })), ...relations];
}

function suggestions(input) {
  const before = input.value.slice(0, input.selectionStart);
  const word = before.match(input.id === "filter" ? /"([\w.$]*)$/ : /([\w.$]*)$/)?.[1];
  if (word === undefined) return { word: "", found: [] };
  const path = input.id === "filter" ? openRelations(before) : word.split(".").slice(0, -1);
  const start = input.id === "filter" ? word : word.split(".").at(-1);
  const names = input.id === "filter" ? [...fieldsAt(path), ...OPERATORS.map((name) => ({ name, hint: "" }))] : fieldsAt(path);
  const found = names.filter((each) => each.name.startsWith(start) && each.name !== start);
  return { word: start, found: start || input.id === "filter" ? found.slice(0, 10) : [] };
}

// The members that are open at the end of this text: relations on the way, as in {"author":{"name":...
function openRelations(text) {
  const open = [];
  let last = null;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]]/g)) {
    if (token === "{") open.push(last);
    else if (token === "}") open.pop();
    else if (token.startsWith('"')) last = token.slice(1, -1);
  }
  return open.filter((name) => name && !name.startsWith("_"));
}

function offer(input) {
  const { word, found } = suggestions(input);
  const items = found.map(({ name, hint }) => {
    const item = document.createElement("li");
    const small = document.createElement("small");
    small.textContent = hint;
    item.append(name, small);
    item.onmousedown = (pressed) => { pressed.preventDefault(); take(input, word, name); };
    item.dataset.name = name;
    item.dataset.word = word;
    return item;
  });
  items[0]?.setAttribute("aria-selected", "true");
  const place = input.getBoundingClientRect();
  const list = $("completions");
  list.replaceChildren(...items);
  list.hidden = !items.length;
  list.style.left = `${place.left}px`;
  list.style.top = `${place.bottom + 2}px`;
}

function take(input, word, name) {
  const end = input.selectionStart;
  input.setRangeText(name, end - word.length, end, "end");
  $("completions").hidden = true;
  input.focus();
}

function chooseByKey(pressed) {
  const list = $("completions");
  if (list.hidden) return;
  const items = [...list.children];
  const at = items.findIndex((each) => each.getAttribute("aria-selected"));
  if (pressed.key === "ArrowDown" || pressed.key === "ArrowUp") {
    const next = items[(at + (pressed.key === "ArrowDown" ? 1 : items.length - 1)) % items.length];
    items[at]?.removeAttribute("aria-selected");
    next.setAttribute("aria-selected", "true");
  } else if (pressed.key === "Enter" || pressed.key === "Tab") {
    take(pressed.target, items[at].dataset.word, items[at].dataset.name);
  } else if (pressed.key === "Escape") {
    list.hidden = true;
  } else {
    return;
  }
  pressed.preventDefault();
}

// --- frames and snippets ---

function note(direction, text) {
  frames.unshift(`${direction} ${text}`);
  frames.length = Math.min(frames.length, FRAMES_MAX);
  if (tab === "frames") showTab();
}

function shown() {
  let asked = {};
  try { asked = query(); } catch { /* the filter is being written */ }
  const collection = JSON.stringify($("collection").value);
  const options = { ...($("event").value && { event: $("event").value }), query: asked };
  const message = { type: "subscribe", collection: $("collection").value, ...options };
  const pretty = JSON.stringify(options, null, 2);
  const http = new URL(".", location.href).href.replace(/\/$/, "");
  const url = socketUrl().href;
  const withToken = $("token").value;
  const authMode = withToken ? "strict" : "public";  // "strict" is the token in the URL, which does in every mode
  switch (tab) {
    case "frames": return frames.join("\n");
    case "sdk": return `import { createDirectus, realtime${withToken ? ", staticToken" : ""} } from "@directus/sdk";

const client = createDirectus(${JSON.stringify(http)})${withToken ? "\n  .with(staticToken(process.env.TOKEN))" : ""}
  .with(realtime({ authMode: "${authMode}" }));
await client.connect();
const { subscription } = await client.subscribe(${collection}, ${pretty});
for await (const message of subscription) console.log(message);`;
    case "js": return `const socket = new WebSocket(${JSON.stringify(url)}${withToken ? ' + "?access_token=" + token' : ""});
socket.onopen = () => socket.send(JSON.stringify(${JSON.stringify(message, null, 2)}));
socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.type === "ping") socket.send('{"type":"pong"}');
  else console.log(message);
};`;
    case "python": return `import json, os
from websockets.sync.client import connect

with connect(${JSON.stringify(url)}${withToken ? ' + "?access_token=" + os.environ["TOKEN"]' : ""}) as socket:
    socket.send(${pythonText(JSON.stringify(message))})
    for text in socket:
        message = json.loads(text)
        if message["type"] == "ping":
            socket.send('{"type":"pong"}')
        else:
            print(message)`;
    default: return shellSnippet(url + (withToken ? "?access_token=TOKEN" : ""), message);
  }
}

function shellSnippet(url, message) {
  const { fields, filter } = message.query;
  if (filter) return `python -m websockets ${shellText(url)}\n# then paste:\n${JSON.stringify(message)}`;
  const options = (fields ? ` --fields ${shellText(fields.join(","))}` : "") + (message.event ? ` --event ${message.event}` : "");
  return `cdc-bridge listen ${shellText(message.collection)} --url ${shellText(url)}${options}`;
}

const pythonText = (text) => JSON.stringify(text);
const shellText = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function showTab() {
  for (const each of $("tabs").children) each.setAttribute("aria-selected", String(each.dataset.tab === tab));
  $("shown").textContent = shown();
}

function passSecond() {
  $("rate").textContent = perSecond[SECONDS - 1];
  const most = Math.max(...perSecond, 1);
  const points = perSecond.map((count, at) => `${at},${(23 - (22 * count) / most).toFixed(1)}`);
  $("sparkline").firstElementChild.setAttribute("points", points.join(" "));
  perSecond.push(0);
  perSecond.shift();
}

$("connect").onclick = connectAnew;
$("question").onsubmit = (submitted) => { submitted.preventDefault(); follow(); };
$("tabs").onclick = ({ target }) => { if (target.dataset.tab) { tab = target.dataset.tab; showTab(); } };
$("collection").onchange = () => { $("fields").value = $("filter").value = ""; follow(); };
$("event").onchange = showTab;
for (const input of [$("fields"), $("filter")]) {
  input.oninput = () => { offer(input); showTab(); };
  input.onkeydown = chooseByKey;
  input.onblur = () => { $("completions").hidden = true; };
}
setInterval(passSecond, 1000);
showTab();
connect();
