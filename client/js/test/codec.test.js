import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { messages, notification, request } from "../dist/index.js";

const vectors = JSON.parse(readFileSync(new URL("../../../protocol/golden/valid.json", import.meta.url), "utf8"));
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

async function* pieces(data, size) {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

async function read(data, size = data.length) {
  const found = [];
  for await (const message of messages(pieces(data, size))) found.push(message);
  return found;
}

const ours = vectors.filter(({ meaning }) => meaning.kind === "response" || meaning.method === "event");

test("the golden vectors of the protocol are understood, whatever the pieces", async () => {
  assert.ok(ours.length > 1);
  for (const { name, meaning, msgpack_hex } of ours) {
    const data = bytes(msgpack_hex);
    for (let size = 1; size <= data.length; size++) {
      const [message, ...more] = await read(data, size);
      assert.equal(more.length, 0);
      if (meaning.kind === "response") {
        assert.deepEqual([message.id, message.error, message.result], [meaning.id, meaning.error, meaning.result], name);
      } else {
        assert.deepEqual(message.event, meaning.params, name);
      }
    }
  }
});

test("what is sent are the bytes of the golden vectors", () => {
  let compared = 0;
  for (const { meaning, msgpack_hex } of vectors) {
    const params = meaning.params ?? {};
    if (meaning.kind === "request" && Number.isInteger(meaning.id) && Object.keys(params).length < 2) {
      assert.equal(Buffer.from(request(meaning.id, meaning.method, params)).toString("hex"), msgpack_hex);
      compared += 1;
    } else if (meaning.kind === "notification" && meaning.method === "cancel") {
      assert.equal(Buffer.from(notification("cancel", params)).toString("hex"), msgpack_hex);
      compared += 1;
    }
  }
  assert.ok(compared > 1);
});

test("several messages in one piece all come", async () => {
  const one = bytes("940101c081a4706f6e67c3");
  assert.equal((await read(Buffer.concat([one, one, one]))).length, 3);
});
