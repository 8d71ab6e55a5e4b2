// The dashboard: what the gateway tells, drawn. Text only: nothing from the mesh becomes markup.
"use strict";

const TOPICS = ["md.quote.", "md.status.", "order.", "fill.", "acct.position.", "acct.balance.",
  "risk.decision.", "sys.mode"];
const LOGGED = ["md.status.", "order.", "fill.", "risk.decision.", "sys.mode"];
const WORKING = new Set(["PENDING", "OPEN", "PARTIAL", "CANCELING", "REPLACING", "UNKNOWN"]);
const POINTS_MAX = 900;
const EVENTS_MAX = 200;
const POLL_MS = 1000;

const $ = (id) => document.getElementById(id);
const prices = new Map(); // instrument -> [mid, ...]
const positions = new Map(); // topic -> Position
const balances = new Map(); // topic -> Balance
const orders = new Map(); // client order id -> Order
let fills = [];
const log = [];
const answers = new Map(); // request id -> {resolve, reject}
let socket = null;
let wishes = 0;
let failures = 0;
let dirty = true;

// The token comes in the fragment, which no server and no log sees, and leaves the address bar.
function takeToken() {
  const fragment = location.hash.slice(1);
  if (fragment) {
    sessionStorage.setItem("token", fragment.replace(/^token=/, ""));
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") || "";
}

// Talking to the gateway.

async function connect() {
  let token = takeToken();
  if (!token) token = await ask("Access token (genesis token --scope operate)", true);
  if (!token) return state("no token", true);
  sessionStorage.setItem("token", token);
  let port;
  try {
    port = (await (await fetch("/dashboard.json")).json()).ws_port;
  } catch {
    return retry();
  }
  const name = location.hostname || "127.0.0.1";
  socket = new WebSocket(`ws://${name}:${port}/`, "genesis.v1.json");
  socket.onopen = () => socket.send(JSON.stringify({ op: "auth", token }));
  socket.onmessage = (message) => receive(JSON.parse(message.data));
  socket.onclose = (close) => {
    answers.forEach(({ reject }) => reject(new Error("connection lost")));
    answers.clear();
    if (close.code === 4001) {
      sessionStorage.removeItem("token");
      notice(close.reason || "token refused");
    }
    retry();
  };
}

function retry() {
  state("reconnecting", true);
  failures += 1;
  const wait = Math.min(5000, 300 * 2 ** Math.min(failures, 5)) * (0.75 + Math.random() / 2);
  setTimeout(connect, wait);
}

function receive(message) {
  switch (message.op) {
    case "welcome":
      failures = 0;
      state("live", false);
      $("link").title = `scope ${message.scope}`;
      socket.send(JSON.stringify({ op: "subscribe", id: "all", topics: TOPICS, conflate_ms: 200 }));
      refresh();
      break;
    case "mode": showMode(message.mode); break;
    case "snapshot": case "event": take(message); break;
    case "reply": settle(message.id, "resolve", message.data); break;
    case "error": settle(message.id, "reject", new Error(`${message.code}: ${message.message}`)); break;
  }
}

function settle(id, how, value) {
  const answer = answers.get(id);
  answers.delete(id);
  if (answer) answer[how](value);
  else if (how === "reject") notice(value.message);
}

function request(method, params = null) {
  return new Promise((resolve, reject) => {
    if (!socket || socket.readyState !== WebSocket.OPEN) return reject(new Error("not connected"));
    const id = ++wishes;
    answers.set(id, { resolve, reject });
    socket.send(JSON.stringify({ op: "request", id, method, params, deadline_ms: 3000 }));
  });
}

// What arrives.

function take({ op, topic, ts, data }) {
  dirty = true;
  if (topic.startsWith("md.quote.") && data) {
    const line = prices.get(data.instrument) || prices.set(data.instrument, []).get(data.instrument);
    line.push((Number(data.bid) + Number(data.ask)) / 2);
    if (line.length > POINTS_MAX) line.shift();
    line.quote = data;
    return;
  }
  if (topic.startsWith("acct.position.")) put(positions, topic, data);
  else if (topic.startsWith("acct.balance.")) put(balances, topic, data);
  else if (topic.startsWith("order.") && data) orders.set(data.order.intent.client_order_id, data.order);
  else if (topic.startsWith("fill.") && data) addFills([data]);
  if (op === "event" && data && LOGGED.some((prefix) => topic.startsWith(prefix))) record(topic, ts, data);
}

function put(map, key, value) {
  if (value === null) map.delete(key);
  else map.set(key, value);
}

function addFills(found) {
  const known = new Map([...found, ...fills].map((fill) => [fill.fill_id, fill]));
  fills = [...known.values()].sort((a, b) => b.ts_event - a.ts_event).slice(0, 100);
}

function record(topic, ts, data) {
  log.unshift({ at: clock(ts), topic, text: brief(topic, data) });
  log.length = Math.min(log.length, EVENTS_MAX);
}

function brief(topic, data) {
  if (topic.startsWith("order.")) {
    const { intent, state: now } = data.order;
    return `${data.event} ${intent.side} ${intent.quantity} ${now} ${intent.client_order_id}`;
  }
  if (topic.startsWith("fill.")) return `${data.side} ${data.quantity} @ ${data.price} ${data.client_order_id}`;
  if (topic.startsWith("risk.decision.")) {
    return `${data.approved ? "approved" : `denied ${data.code}`} ${data.client_order_id} ${data.detail}`;
  }
  if (topic.startsWith("sys.mode")) return `${data.mode}: ${data.reason} (${data.by})`;
  return JSON.stringify(data);
}

async function refresh() {
  for (const [method, keep] of [
    ["execution.orders", (found) => found.forEach((o) => orders.set(o.intent.client_order_id, o))],
    ["execution.fills", addFills],
  ]) {
    try {
      keep((await request(method, { limit: 50, cursor: null })).items);
      dirty = true;
    } catch { /* the node is away; its events will come */ }
  }
}

async function poll() {
  try {
    showStatus(await request("coordinator.status"));
  } catch { /* shown by the link's state and the ages that stand still */ }
}

// Drawing.

const clock = (ns) => new Date(ns / 1e6).toLocaleTimeString([], { hour12: false });
const whole = (x) => (Number.isFinite(x) ? Math.round(x).toLocaleString("en") : "–");
const short = (x) => (Number.isFinite(x) ? Number(x.toFixed(1)).toLocaleString("en") : "–");

function rows(id, found) {
  const body = document.createDocumentFragment();
  for (const cells of found) {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const box = row.insertCell();
      if (cell instanceof Node) box.append(cell);
      else if (Array.isArray(cell)) [box.textContent, box.className] = cell;
      else box.textContent = cell ?? "";
    }
    body.append(row);
  }
  $(id).tBodies[0].replaceChildren(body);
}

function showStatus(status) {
  const nodes = status.nodes || [];
  showMode(status.mode);
  const up = nodes.filter((node) => node.state === "UP").length;
  $("up").textContent = `${up}/${nodes.length}`;
  $("rate").textContent = whole(nodes.reduce((sum, node) => sum + (node.events_in_s || 0), 0));
  for (const key of ["p50", "p99"]) {
    const worst = Math.max(0, ...nodes.map((node) => node.latency_us?.[key] || 0));
    $(key).textContent = worst ? `${whole(worst)} µs` : "–";
  }
  rows("nodes", nodes.map((node) => [
    named(node), [node.state, node.state], whole(node.heartbeat_age_ms),
    short(node.events_in_s), short(node.events_out_s), whole(node.latency_us?.p99),
    short(node.rss_mb), node.restarts,
  ]));
}

function named(node) {
  const name = document.createElement("span");
  const dot = document.createElement("span");
  dot.textContent = "● ";
  dot.className = node.state;
  name.append(dot, node.node);
  return name;
}

function showMode(mode) {
  const name = String(mode).toUpperCase();
  $("mode").textContent = name;
  $("mode").className = `pill ${name}`;
  for (const button of $("switch").children) {
    button.disabled = button.dataset.mode.toUpperCase() === name;
  }
}

function showOrders() {
  const newest = [...orders.values()].sort((a, b) => b.ts_state - a.ts_state);
  for (const old of newest.slice(200)) orders.delete(old.intent.client_order_id);
  $("open").textContent = newest.filter((order) => WORKING.has(order.state)).length;
  rows("orders", newest.slice(0, 50).map((order) => [
    order.intent.client_order_id, [order.intent.side, order.intent.side], order.intent.quantity,
    order.intent.kind === "MARKET" ? "market" : order.intent.price, order.filled,
    [order.state, order.state], WORKING.has(order.state) ? cancelButton(order) : "",
  ]));
}

function cancelButton(order) {
  const button = document.createElement("button");
  button.textContent = "cancel";
  button.onclick = () => act("execution.cancel", order.intent.client_order_id);
  return button;
}

function showTables() {
  showOrders();
  rows("positions", [...positions.values()].map((p) => [
    p.strategy, p.instrument, p.signed_quantity, p.cost, p.realized, p.fees_quote]));
  rows("balances", [...balances.values()].map((b) => [b.account, b.ccy, b.total, b.locked]));
  rows("fills", fills.slice(0, 50).map((f) => [
    clock(f.ts_event), [f.side, f.side], f.instrument, f.quantity, f.price, `${f.fee} ${f.fee_ccy}`]));
  const wanted = $("filter").value.toLowerCase();
  $("events").replaceChildren(...log.filter((e) => (e.topic + e.text).toLowerCase().includes(wanted))
    .map((e) => {
      const line = document.createElement("li");
      const topic = document.createElement("b");
      topic.textContent = e.topic;
      line.append(`${e.at} `, topic, ` ${e.text}`);
      line.title = e.text;
      return line;
    }));
}

function showPrice() {
  for (const name of prices.keys()) {
    if ([...$("instruments").options].every((option) => option.value !== name)) {
      $("instruments").append(new Option(name, name));
    }
  }
  const line = prices.get($("instruments").value);
  if (!line) return;
  $("quote").textContent = `${line.quote.bid} / ${line.quote.ask}`;
  spark($("chart"), line);
}

function spark(canvas, line) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const [low, high] = [Math.min(...line), Math.max(...line)];
  const span = high - low || 1;
  const right = width - 84;
  const y = (price) => 12 + (high - price) / span * (height - 24);
  pen.font = "12px system-ui";
  pen.fillStyle = "#7b8494";
  pen.strokeStyle = "#1f2530";
  for (let i = 0; i <= 4; i += 1) {
    const price = low + span * i / 4;
    pen.beginPath();
    pen.moveTo(0, y(price));
    pen.lineTo(right, y(price));
    pen.stroke();
    pen.fillText(price.toFixed(2), right + 8, y(price) + 4);
  }
  pen.beginPath();
  line.forEach((price, i) => pen.lineTo(right * i / Math.max(1, line.length - 1), y(price)));
  pen.strokeStyle = "#5aa2f0";
  pen.lineWidth = 1.5;
  pen.stroke();
  const last = line[line.length - 1];
  pen.fillStyle = "#5aa2f0";
  pen.fillRect(right + 2, y(last) - 9, 80, 18);
  pen.fillStyle = "#0b0d14";
  pen.fillText(last.toFixed(2), right + 8, y(last) + 4);
}

function state(text, isDown) {
  $("link").textContent = text;
  $("link").className = isDown ? "down" : "";
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  setTimeout(() => { $("notice").hidden = true; }, 5000);
}

// What a person does.

function ask(question, isSecret = false) {
  $("question").textContent = question;
  $("answer").hidden = !isSecret;
  $("answer").value = "";
  $("ask").showModal();
  $(isSecret ? "answer" : "no").focus();
  return new Promise((resolve) => {
    $("ask").onclose = () => {
      const yes = $("ask").returnValue === "yes";
      resolve(yes && (isSecret ? $("answer").value.trim() : true));
    };
  });
}

async function act(method, params) {
  try {
    await request(method, params);
    await poll();
  } catch (error) {
    notice(error.message);
  }
}

$("switch").onclick = async ({ target }) => {
  const mode = target.dataset.mode;
  if (!mode) return;
  if (mode === "emergency" && !await ask("EMERGENCY cancels all orders and stops trading. Sure?")) return;
  await act("mesh.set_mode", { mode, reason: "dashboard" });
};
$("filter").oninput = () => { dirty = true; };
$("instruments").onchange = () => { dirty = true; };

setInterval(poll, POLL_MS);
setInterval(() => {
  if (!dirty || document.hidden) return;
  dirty = false;
  showPrice();
  showTables();
}, 250);
connect();
