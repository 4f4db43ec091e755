/** The states of requests, without a socket: messages in, bytes and outcomes out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { decode } from "@msgpack/msgpack";
import { Core } from "../dist/core.js";
import { ConnectionClosed } from "../dist/index.js";

/** A request that records what happens to it. */
class Recorded {
  id = 0;
  whole = false;
  log = [];

  constructor(method = "chat", params = {}) {
    this.method = method;
    this.params = params;
  }

  event(event) {
    this.log.push(["event", event.text]);
  }

  resolve(result) {
    this.log.push(["result", result]);
  }

  reject(error) {
    this.log.push(["error", error.code]);
    this.error = error;
  }
}

const event = (id, text) => ({ kind: "event", event: { id, type: "delta", text } });
const result = (id, value) => ({ kind: "response", id, error: null, result: value });
const failure = (id, code) => ({ kind: "response", id, error: { code, message: code, hint: "" }, result: null });

/** Return a core with some submitted requests. */
function flying(...calls) {
  const core = new Core();
  for (const call of calls) core.submit(call);
  return core;
}

test("requests get ids from 1 and become messages", () => {
  const core = new Core();
  assert.deepEqual(decode(core.submit(new Recorded("ping"))), [0, 1, "ping", [{}]]);
  assert.deepEqual(decode(core.submit(new Recorded("chat", { top_k: 2 }))), [0, 2, "chat", [{ top_k: 2 }]]);
  assert.equal(core.inFlight, 2);
});

test("a request that cannot be encoded leaves nothing behind", () => {
  const core = new Core();
  assert.throws(() => core.submit(new Recorded("chat", { bad: () => 0 })));
  assert.equal(core.inFlight, 0);
  assert.deepEqual(decode(core.submit(new Recorded("ping"))), [0, 1, "ping", [{}]]);
});

test("events and the response reach their own request, in any order", () => {
  const [one, two] = [new Recorded(), new Recorded()];
  const core = flying(one, two);
  for (const message of [event(2, "b"), event(1, "a"), result(2, "B"), event(1, "a"), result(1, "A")]) {
    core.receive(message);
  }
  assert.deepEqual(one.log, [["event", "a"], ["event", "a"], ["result", "A"]]);
  assert.deepEqual(two.log, [["event", "b"], ["result", "B"]]);
  assert.equal(core.inFlight, 0);
});

test("an error response ends only its request", () => {
  const [one, two] = [new Recorded(), new Recorded()];
  const core = flying(one, two);
  core.receive(failure(1, "context_overflow"));
  assert.deepEqual(one.log, [["error", "context_overflow"]]);
  assert.deepEqual(two.log, []);
});

test("events carry the tag of their request; the latest request with it gets them", () => {
  const [old, now] = [new Recorded("chat", { tag: "x" }), new Recorded("chat", { tag: "x" })];
  const core = flying(old, now);
  core.receive(event("x", "new"));
  core.receive(failure(1, "superseded"));
  core.receive(event("x", "newer"));
  assert.deepEqual(old.log, [["error", "superseded"]]);
  assert.deepEqual(now.log, [["event", "new"], ["event", "newer"]]);
});

test("a cancelled request hears nothing more", () => {
  const call = new Recorded();
  const core = flying(call);
  assert.deepEqual(decode(core.cancel(call)), [2, "cancel", [{ id: 1 }]]);
  core.receive(event(1, "late"));
  core.receive(failure(1, "cancelled"));
  assert.deepEqual(call.log, []);
  assert.equal(core.cancel(call), undefined);
});

test("a request that has ended is not cancelled", () => {
  const call = new Recorded();
  const core = flying(call);
  core.receive(result(1, "done"));
  assert.equal(core.cancel(call), undefined);
});

test("a second response to a request is ignored", () => {
  const call = new Recorded();
  const core = flying(call);
  core.receive(result(1, "first"));
  core.receive(result(1, "second"));
  core.receive(result(99, "of nobody"));
  assert.deepEqual(call.log, [["result", "first"]]);
});

test("a lost connection says of each request whether it may have been executed", () => {
  const [sent, unsent] = [new Recorded(), new Recorded()];
  const core = flying(sent, unsent);
  sent.whole = true;
  core.lose("gone");
  assert.ok(sent.error instanceof ConnectionClosed && unsent.error instanceof ConnectionClosed);
  assert.equal(sent.error.mayHaveBeenExecuted, true);
  assert.equal(unsent.error.mayHaveBeenExecuted, false);
  assert.equal(core.lost, "gone");
  assert.equal(core.inFlight, 0);
});

test("the first reason for which a connection ended is kept", () => {
  const core = flying();
  core.lose("first");
  core.lose("second");
  assert.equal(core.lost, "first");
});

test("a refused connection ends every request with the daemon's error", () => {
  const calls = [new Recorded(), new Recorded()];
  const core = flying(...calls);
  core.receive(failure(null, "overloaded"));
  for (const call of calls) assert.deepEqual(call.log, [["error", "overloaded"]]);
  assert.equal(core.lost, "overloaded");
});
