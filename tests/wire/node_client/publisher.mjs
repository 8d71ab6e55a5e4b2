// Be a node of the mesh: node publisher.mjs <run>/<cluster>
// Publishes x.gauge.a from 1 on, once it is heard; answers gauge.half; ends on SIGTERM.
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Router, XPublisher } from "zeromq";
import {
  ERR, HEAD, HELLO, PING, PONG, REP, REQ, WELCOME,
  crc32, decodeRpc, encodeEvent, encodeRpc, pack, unpack,
} from "./frames.mjs";

const [base] = process.argv.slice(2);
const NAME = "gauge", TOPIC = "x.gauge.a", SCHEMA = 0x2001;
const nid = crc32(`genesis/${NAME}`), epoch = BigInt(Date.now());
const endpoints = { e: `ipc://${join(base, NAME)}.e`, r: `ipc://${join(base, NAME)}.r` };
const file = join(base, "nodes", `${NAME}.json`);
const events = new XPublisher({ verbosity: "allSubs", linger: 0 });
const requests = new Router({ mandatory: true, linger: 0 });
let seq = 0, timer, sending = Promise.resolve();
const send = (fields) => (sending = sending.then(() => events.send(encodeEvent(fields))));

await events.bind(endpoints.e);
await requests.bind(endpoints.r);
writeFileSync(`${file}.new`, JSON.stringify([
  NAME, nid, Number(epoch), process.pid, ["gauge.half"], { "x.gauge.": 0 }, endpoints, "", [1, 1],
]));
renameSync(`${file}.new`, file);
console.log(JSON.stringify({ step: "bound" }));

async function answerProbes() {
  for await (const [frame] of events) {
    if (frame[0] !== 1 || frame[1] !== 0xff || frame.length < 18) continue;
    const head = pack([epoch, 1, 1, seq ? { [TOPIC]: seq } : {}, [], [], 0, 1]);
    const topic = frame.subarray(1);
    await send({ topic, schema: HEAD, nid, epoch, seq: 0, payload: head });
    timer ??= setInterval(publish, 5);
  }
}

function publish() {
  seq += 1;
  send({ topic: TOPIC, schema: SCHEMA, nid, epoch, seq, payload: pack(seq) });
}

async function serve() {
  for await (const [peer, frame] of requests) {
    const { kind, method, corr, epoch: theirs, body } = decodeRpc(frame);
    const answer = (reply) => requests.send([peer, encodeRpc({ method, corr, epoch: theirs, ...reply })]);
    if (kind === HELLO) {
      await answer({ kind: WELCOME, body: pack([NAME, epoch, 1]) });
    } else if (kind === PING) {
      const [sent, asked] = unpack(body), now = BigInt(Date.now()) * 1_000_000n;
      await answer({ kind: PONG, body: pack([sent, now, now, asked, []]) });
    } else if (kind === REQ && method === crc32("gauge.half")) {
      await answer({ kind: REP, body: pack(unpack(body) / 2) });
    } else if (kind === REQ) {
      await answer({ kind: ERR, body: pack(["NOT_FOUND", "no", "not served here", 0]) });
    }
  }
}

process.on("SIGTERM", () => {
  clearInterval(timer);
  rmSync(file, { force: true });
  for (const socket of [events, requests]) socket.close();
  for (const path of Object.values(endpoints)) rmSync(path.slice(6), { force: true });
});
await Promise.all([answerProbes(), serve()]);
