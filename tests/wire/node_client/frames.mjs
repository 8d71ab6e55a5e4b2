// Frames, record files and names as mesh/README.md describes them. Never here: sockets.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib"; // of Node 20.15 and later
import { decode, encode } from "@msgpack/msgpack";

const BIG = { useBigInt64: true }; // nanoseconds do not fit a double
export const pack = (value) => Buffer.from(encode(value, BIG));
export const unpack = (bytes) => decode(bytes, BIG);
export { crc32 };

// Flags and schemas in use here.
export const HEAD = 0x01, LOG_INDEX = 0x08;
export const DURABLE = 1, BUNDLE = 0x100;
const EVENT_HEADER = 56, RPC_HEADER = 48;

/** The node's record: how to reach it. */
export function record(base, node) {
  const fields = JSON.parse(readFileSync(join(base, "nodes", `${node}.json`), "utf8"));
  const [name, nid, epoch, pid, services, says, endpoints, logId] = fields;
  return { name, nid, epoch, pid, services, says, endpoints, logId };
}

/** The events in a live frame: one, or those of a bundle. */
export function decodeEvents(frame) {
  const high = frame.subarray(0, 256).indexOf(0) + 4; // upper byte of the flags
  if (high >= frame.length || !(frame[high] & (BUNDLE >> 8))) return [decodeEvent(frame)];
  const plain = Buffer.from(frame);
  plain[high] &= ~(BUNDLE >> 8);
  const first = decodeEvent(plain);
  const values = unpack(first.payload);
  if (first.flags || first.offset || values.length > 64) throw new Error("no sound bundle");
  return values.map((value, n) => ({ ...first, seq: first.seq + n, payload: pack(value) }));
}

/** topic | NUL | header | ext | payload; throws on what is no event of wire 1. */
export function decodeEvent(frame) {
  const nul = frame.subarray(0, 256).indexOf(0);
  if (nul < 1 || frame.length < nul + 1 + EVENT_HEADER) throw new Error("too short");
  const header = frame.subarray(nul + 1, nul + 1 + EVENT_HEADER);
  const flags = header.readUInt16LE(2), extLength = header.readUInt32LE(12);
  if (header[0] !== 0xe7 || header[1] !== 1) throw new Error("not of wire 1");
  if (flags & 0xff00) throw new Error("unknown flags");
  const body = nul + 1 + EVENT_HEADER + extLength;
  if (extLength > 4096 || body > frame.length) throw new Error("false ext length");
  return {
    topic: frame.toString(frame[0] === 0xff ? "latin1" : "utf8", 0, nul),
    flags,
    schema: header.readUInt32LE(4),
    nid: header.readUInt32LE(8),
    epoch: header.readBigUInt64LE(16),
    seq: Number(header.readBigUInt64LE(24)),
    offset: Number(header.readBigUInt64LE(32)),
    payload: frame.subarray(body),
  };
}

export function encodeEvent({ topic, schema, nid, epoch, seq, payload, flags = 0 }) {
  const header = Buffer.alloc(EVENT_HEADER);
  const now = BigInt(Date.now()) * 1_000_000n;
  header.writeUInt8(0xe7, 0);
  header.writeUInt8(1, 1);
  header.writeUInt16LE(flags, 2);
  header.writeUInt32LE(schema, 4);
  header.writeUInt32LE(nid, 8);
  header.writeBigUInt64LE(epoch, 16);
  header.writeBigUInt64LE(BigInt(seq), 24);
  header.writeBigUInt64LE(now, 40);
  header.writeBigUInt64LE(now, 48);
  const name = Buffer.isBuffer(topic) ? topic : Buffer.from(topic);
  return Buffer.concat([name, Buffer.from([0]), header, payload]);
}

export const HELLO = 1, WELCOME = 2, REQ = 3, REP = 5, ERR = 8, PING = 10, PONG = 11;

export function decodeRpc(frame) {
  if (frame.length < RPC_HEADER || frame[0] !== 0xe8 || frame[1] !== 1) throw new Error("no rpc");
  return {
    kind: frame[2],
    method: frame.readUInt32LE(4),
    corr: frame.readBigUInt64LE(8),
    epoch: frame.readBigUInt64LE(16),
    budgetMs: frame.readUInt32LE(24),
    body: frame.subarray(RPC_HEADER),
  };
}

export function encodeRpc({ kind, method = 0, corr = 0n, epoch, budgetMs = 0, body }) {
  const header = Buffer.alloc(RPC_HEADER);
  header.writeUInt8(0xe8, 0);
  header.writeUInt8(1, 1);
  header.writeUInt8(kind, 2);
  header.writeUInt32LE(method, 4);
  header.writeBigUInt64LE(corr, 8);
  header.writeBigUInt64LE(epoch, 16);
  header.writeUInt32LE(budgetMs, 24);
  header.writeUInt16LE(1, 28);
  header.writeUInt16LE(500, 30);
  return Buffer.concat([header, body]);
}
