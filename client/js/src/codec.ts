/** Encodes and decodes MessagePack-RPC messages, without I/O. */
import { decodeMultiStream, encode } from "@msgpack/msgpack";
import { MlxdError } from "./errors.js";

export type Wire =
  | { kind: "response"; id: number | null; error: Record<string, unknown> | null; result: unknown }
  | { kind: "event"; event: Record<string, unknown> };

export function request(id: number, method: string, params: object): Uint8Array {
  return encode([0, id, method, [params]], { ignoreUndefined: true });
}

export function notification(method: string, params: object): Uint8Array {
  return encode([2, method, [params]], { ignoreUndefined: true });
}

/** Yield the messages in a sequence of byte chunks. Ignores kinds of messages from newer daemons. */
export async function* messages(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Wire> {
  for await (const raw of decodeMultiStream(pieces)) {
    const message = toWire(raw);
    if (message) yield message;
  }
}

function toWire(raw: unknown): Wire | undefined {
  if (!Array.isArray(raw)) {
    throw new MlxdError("parse_error", "The daemon sent bytes that are not a message.", "Check which program listens: mlxd status");
  }
  if (raw[0] === 1) {
    const error = raw[2] as Record<string, unknown> | null;
    return { kind: "response", id: raw[1] as number | null, error, result: raw[3] };
  }
  if (raw[0] === 2 && raw[1] === "event") {
    return { kind: "event", event: (raw[2] as Record<string, unknown>[])[0] ?? {} };
  }
  return undefined;
}
