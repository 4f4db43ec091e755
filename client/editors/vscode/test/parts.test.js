/** Tests of the parts that need no editor. Completion uses the real daemon at MLXD_SOCKET. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Completer } from "../dist/parts/completion.mjs";
import { Connection } from "../dist/parts/connection.mjs";
import { around } from "../dist/parts/context.mjs";
import { label } from "../dist/parts/label.mjs";
import { bare, messagesOf, question } from "../dist/parts/prompts.mjs";
import { Writer } from "../dist/parts/writer.mjs";

const connection = new Connection(() => ({ command: false }));
after(() => connection.close());
const never = new AbortController().signal;
const wish = (more = {}) => ({
  prefix: "def add(a, b):\n    return ", suffix: "", key: "test", debounceMs: 0, budgetMs: 20000, maxTokens: 8, ...more,
});

test("the beginning of the prefix moves in jumps and at lines", () => {
  const text = Array.from({ length: 300 }, (_, n) => `line ${n}`).join("\n");
  const limits = { prefixChars: 400, suffixChars: 100 };
  const starts = new Set();
  for (let offset = 1000; offset < 1200; offset++) {
    const { prefix, suffix } = around(text, offset, limits);
    assert.ok(prefix.length <= 400 && suffix.length <= 100);
    assert.ok(text.endsWith(prefix + suffix + text.slice(offset + suffix.length)));
    starts.add(prefix.slice(0, 8));
  }
  assert.ok(starts.size <= 3);
  assert.deepEqual(around("short", 2), { prefix: "sh", suffix: "ort" });
  assert.equal(around("a\u{1F600}", 0, { prefixChars: 9, suffixChars: 2 }).suffix, "a");
});

test("a question carries its code, a fence that holds, and the turns before", () => {
  assert.equal(question("Why?", "", "python"), "Why?");
  assert.match(question("Why?", "x = '```'", "python"), /````python\nx = '```'\n````/);
  assert.match(question("Shorten", "x", "c", true), /new text alone/);
  const turns = [{ role: "user", text: "a" }, { role: "assistant", text: "" }];
  assert.deepEqual(messagesOf("s", turns, "b").map((one) => one.content), ["s", "a", "b"]);
  assert.equal(bare("```c\nint x;\n```"), "int x;");
  assert.equal(bare("plain"), "plain");
});

test("a completion comes from the daemon", async () => {
  const completer = new Completer(() => connection.client());
  assert.match(await completer.complete(wish(), never), /^a \+ b/);
  assert.equal(await completer.complete(wish({ prefix: "  \n" }), never), "");
  assert.equal(completer.counts.asked, 1);
});

test("while the person types only the last wish is asked", async () => {
  const completer = new Completer(() => connection.client());
  const all = await Promise.all([1, 2, 3, 4].map(() => completer.complete(wish({ debounceMs: 30 }), never)));
  assert.deepEqual(all.map(Boolean), [false, false, false, true]);
  assert.equal(completer.counts.asked, 1);
});

test("an answer that nobody wants any more is dropped and its work stopped", async () => {
  const completer = new Completer(() => connection.client());
  const abort = new AbortController();
  const long = completer.complete(wish({ maxTokens: 9000, prefix: "Once upon a time " }), abort.signal);
  const client = await connection.client();
  while (completer.counts.asked === 0) await new Promise(setImmediate);
  abort.abort();
  assert.equal(await long, "");
  while ((await client.request("status")).requests.running) await new Promise(setImmediate);
});

test("a budget that is over gives nothing, and so does a daemon that is not there", async () => {
  const completer = new Completer(() => connection.client());
  assert.equal(await completer.complete(wish({ budgetMs: 1 }), never), "");
  const nowhere = new Connection(() => ({ path: "/tmp/no-such/s", command: false }));
  assert.equal(await new Completer(() => nowhere.client()).complete(wish(), never), "");
});

test("a lost connection is opened again", async () => {
  const first = await connection.client();
  first.close();
  while (first.open) await new Promise(setImmediate);
  const second = await connection.client();
  assert.notEqual(first, second);
  assert.deepEqual(await second.request("ping"), { pong: true });
});

test("who asks at the same time gets the same connection", async () => {
  const own = new Connection(() => ({ command: false }));
  const [first, second] = await Promise.all([own.client(), own.client()]);
  assert.equal(first, second);
  first.close();
  await first.closed;
  const [third, fourth] = await Promise.all([own.client(), own.client()]);
  assert.equal(third, fourth);
  assert.notEqual(first, third);
  await own.close();
});

test("a daemon that is found or lost is told, with the model that it answers with", async () => {
  const told = [];
  let lost;
  const gone = new Promise((resolve) => (lost = resolve));
  const own = new Connection(() => ({ command: false }), () => {
    told.push(own.defaultModel);
    if (own.defaultModel === undefined) lost();
  });
  await own.look();
  await own.close();
  await gone;
  assert.deepEqual(told, ["pocket", undefined]);
});

test("looking for a daemon starts none and does not fail", async () => {
  const own = new Connection(() => ({ path: "/tmp/no-such/s", command: ["/tmp/no-such/program"] }));
  await own.look();
  assert.equal(own.defaultModel, undefined);
  await assert.rejects(own.client(), { code: "daemon_unreachable", message: /is not installed/ });
});

test("the status bar names the model, and says what to do without one", () => {
  const state = { busy: 0, model: "pocket", completion: true, starts: true };
  assert.equal(label(state).text, "$(sparkle) pocket");
  assert.match(label({ ...state, completion: false }).tooltip, /Completion is off\. Click to turn it on/);
  assert.equal(label({ ...state, busy: 2 }).command, "mlxd.stop");
  assert.match(label({ ...state, model: undefined }).tooltip, /The next request starts it/);
  assert.match(label({ ...state, model: undefined, starts: false }).tooltip, /Start it: mlxd start/);
});

test("what comes during a write goes into the next one", async () => {
  const written = [];
  let release;
  const writer = new Writer((text) => {
    written.push(text);
    return new Promise((resolve) => (release = resolve));
  });
  for (const piece of ["a", "b", "c"]) writer.add(piece);
  release();
  while (written.length < 2) await new Promise(setImmediate);
  release();
  await writer.end();
  assert.deepEqual(written, ["a", "bc"]);
});

test("a write that fails ends the answer", async () => {
  const writer = new Writer(() => Promise.reject(new Error("closed")));
  writer.add("a");
  await assert.rejects(writer.end(), /closed/);
  assert.throws(() => writer.add("b"), /closed/);
});
