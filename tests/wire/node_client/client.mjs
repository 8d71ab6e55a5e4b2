// Hear a node of the mesh and ask it: node client.mjs <run>/<cluster> <node> <ticks> <last fill>
// Prints one JSON line per step; the test publishes what the next one waits for.
import { randomBytes } from "node:crypto";
import { Dealer, Subscriber } from "zeromq";
import {
  DURABLE, ERR, HEAD, HELLO, LOG_INDEX, REP, REQ, WELCOME,
  crc32, decodeEvent, decodeEvents, decodeRpc, encodeRpc, pack, record, unpack,
} from "./frames.mjs";

const [base, node, ticksWanted, lastFill] = process.argv.slice(2);
const speaker = record(base, node);
const plain = (_, value) => (typeof value === "bigint" ? Number(value) : value);
const say = (step, facts) => console.log(JSON.stringify({ step, ...facts }, plain));

async function* events(socket) {
  for await (const [frame] of socket) yield* decodeEvents(frame);
}

// Hear some prefixes of one plane; the first event to come out is the HEAD of our probe.
async function* hear(plane, prefixes) {
  const socket = new Subscriber({ receiveHighWaterMark: 8192, linger: 0 });
  for (const prefix of prefixes) socket.subscribe(prefix);
  const token = "\xff" + randomBytes(8).toString("hex");
  const probe = token + prefixes.map((p) => "\x1e" + p.replace("\0", "\x1f")).join("");
  socket.subscribe(Buffer.from(probe, "latin1")); // behind the others: pipes are FIFO
  socket.connect(speaker.endpoints[plane]);
  const expected = new Map();
  let synced = false;
  try {
    for await (const event of events(socket)) {
      if (event.nid !== speaker.nid || event.epoch !== BigInt(speaker.epoch)) continue;
      if (event.schema === HEAD && event.topic === probe) {
        event.value = unpack(event.payload);
        for (const [topic, seq] of Object.entries(event.value[3])) {
          expected.set(topic, Number(seq) + 1);
        }
        synced = event.value[6] === event.value[7] - 1; // the last page
      } else if (!synced) {
        continue; // what came before the HEAD is covered by it
      } else {
        const due = expected.get(event.topic) ?? 1;
        if (event.seq < due) continue; // a copy
        event.missed = event.seq - due;
        expected.set(event.topic, event.seq + 1);
      }
      if (synced) yield event;
    }
  } finally {
    socket.close();
  }
}

class Session {
  #socket = new Dealer({ immediate: true, linger: 0, receiveTimeout: 5000 });
  #corr = 0n;
  epoch = BigInt(Date.now());

  async greet() {
    this.#socket.connect(speaker.endpoints.r);
    await this.#send(HELLO, 0, 0n, ["genesis", `cli.${process.pid}`, 1, 1]);
    const welcome = await this.#receive();
    if (welcome.kind !== WELCOME) throw new Error("not welcome");
    return unpack(welcome.body);
  }

  async call(method, body) {
    const corr = ++this.#corr;
    await this.#send(REQ, crc32(method), corr, body);
    const answer = await this.#receive();
    if (answer.corr !== corr) throw new Error("an answer to something else");
    if (answer.kind === ERR) return { error: unpack(answer.body) };
    if (answer.kind !== REP) throw new Error(`kind ${answer.kind}`);
    return { value: unpack(answer.body) };
  }

  close() {
    this.#socket.close();
  }

  async #send(kind, method, corr, body) {
    const header = { kind, method, corr, epoch: this.epoch, budgetMs: 4000 };
    await this.#socket.send(encodeRpc({ ...header, body: pack(body) }));
  }

  async #receive() {
    const [frame] = await this.#socket.receive();
    return decodeRpc(frame);
  }
}

async function listen() {
  const ticks = [];
  let missed = 0;
  for await (const event of hear("e", ["x.tick."])) {
    if (event.schema === HEAD) {
      say("head", { head: event.value });
      continue;
    }
    ticks.push(unpack(event.payload));
    missed += event.missed;
    if (ticks.length === Number(ticksWanted)) break;
  }
  say("ticks", { ticks, missed });
}

async function snapshot(session) {
  const values = {};
  let pages = 0, after = "";
  do {
    const { value } = await session.call("mesh.snapshot", [["x.price."], after]);
    for (const frame of value[0]) {
      const event = decodeEvent(Buffer.from(frame));
      values[event.topic] = unpack(event.payload).length;
    }
    after = value[1];
    pages += 1;
  } while (after);
  say("snapshot", { values, pages });
}

// Everything up to the HEAD is fetched; behind it the index says which records must follow.
async function follow(session) {
  const fills = [], due = [];
  let logId, fetched = 0, indexed = 0, lost = 0;
  for await (const event of hear("d", ["x.fill.", "!log\0"])) {
    if (event.schema === HEAD) {
      const [, id, first, last] = event.value[4][0];
      [logId, indexed] = [id, Number(last)];
      for (let after = Number(first) - 1; after < indexed; fetched += 1) {
        const to = Math.min(after + 512, indexed);
        const { value } = await session.call("mesh.fetch", [logId, after, to, ["x.fill."]]);
        const [, frames, through] = value;
        for (const frame of frames) fills.push(fill(decodeEvent(Buffer.from(frame))));
        after = Number(through);
      }
      say("caught up", { last: indexed, requests: fetched });
    } else if (event.schema === LOG_INDEX) {
      const [id, first, names] = unpack(event.payload);
      if (id !== logId || Number(first) !== indexed + 1) throw new Error("an index was lost");
      names.forEach((name, n) => name.startsWith("x.fill.") && due.push(indexed + 1 + n));
      indexed += names.length;
    } else if (event.flags & DURABLE && event.offset > 0) {
      lost += due.shift() === event.offset ? 0 : 1;
      fills.push(fill(event));
    }
    if (fills.at(-1)?.[0] === Number(lastFill)) break;
  }
  await session.call("mesh.ack", [logId, indexed]);
  say("fills", { fills, lost, left: due.length });
}

const fill = (event) => [event.offset, unpack(event.payload)];

await listen();
const session = new Session();
say("welcome", { welcome: await session.greet() });
await snapshot(session);
await follow(session);
say("refused", await session.call("speaker.refuse", null));
say("doubled", await session.call("speaker.double", 21));
session.close();
