/** Tests against a daemon that fails at every point. FAULTY_DAEMON (a JSON command) starts it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chownSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { Client, ConnectionClosed, RequestTimeout } from "../dist/index.js";

const command = JSON.parse(process.env.FAULTY_DAEMON ?? "null");
const SHORT_MS = 100;
const options = { skip: command ? false : "FAULTY_DAEMON is not set", timeout: 30_000 };

/** Run `work` with a daemon that plays the script, a list of steps for each connection. */
async function faulty(script, work) {
  const folder = mkdtempSync(join(tmpdir(), "mlxd-"));
  const path = join(folder, "s");
  const child = spawn(command[0], [...command.slice(1), path, JSON.stringify(script)]);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const tell = async (word) => {
    child.stdin.write(`${word}\n`);
    return JSON.parse((await lines.next()).value);
  };
  const daemon = {
    path,
    tell,
    until: async (holds) => {
      while (!holds(await tell("look"))) await new Promise(setImmediate);
    },
  };
  try {
    assert.equal((await lines.next()).value, "ready");
    await work(daemon, (more = {}) => Client.connect({ path, command: false, ...more }));
  } finally {
    child.kill();
    rmSync(folder, { recursive: true });
  }
}

for (const steps of [
  ["read", "close"],
  ["read", "half", "close"],
  ["read", "event", "close"],
  ["read", "garbage", "close"],
]) {
  test(`a daemon that does ${steps.join(", ")} ends the request`, options, () =>
    faulty([steps], async (_, connect) => {
      const client = await connect();
      const stream = client.stream("chat");
      await assert.rejects(stream.result, (error) => error instanceof ConnectionClosed && error.mayHaveBeenExecuted);
      await assert.rejects(client.request("ping"), { code: "daemon_unreachable" });
      client.close();
    }));
}

test("a refused connection ends with what the daemon said", options, () =>
  faulty([["read", "refuse", "close"]], async (_, connect) => {
    await assert.rejects((await connect()).request("ping"), { code: "overloaded" });
  }));

test("a request on a connection that died unused is sent on a new one", options, () =>
  faulty([["read", "answer", "close"], ["serve"]], async (daemon, connect) => {
    const client = await connect();
    await client.request("ping");
    await client.closed;
    assert.deepEqual(await Promise.all([client.request("status"), client.request("ps")]), [{ pong: true }, { pong: true }]);
    assert.deepEqual((await daemon.tell("look")).requests, ["ping", "status", "ps"]);
    client.close();
  }));

test("what may have been read is never sent again", options, () =>
  faulty([["read", "close"], ["serve"]], async (daemon, connect) => {
    const client = await connect();
    await assert.rejects(client.request("chat"), ConnectionClosed);
    await client.request("ping");
    assert.deepEqual((await daemon.tell("look")).requests, ["chat", "ping"]);
    client.close();
  }));

test("without reconnect a lost connection stays lost", options, () =>
  faulty([["read", "close"], ["serve"]], async (_, connect) => {
    const client = await connect({ reconnect: false });
    await assert.rejects(client.request("chat"), { mayHaveBeenExecuted: true });
    await assert.rejects(client.request("ping"), { mayHaveBeenExecuted: false });
  }));

for (const [limit, steps] of [
  ["totalMs", ["read", "event", "wait"]],
  ["firstMs", ["read", "wait"]],
  ["idleMs", ["read", "event", "wait"]],
]) {
  test(`${limit} ends a request and cancels it`, options, () =>
    faulty([steps], async (daemon, connect) => {
      const client = await connect();
      const stream = client.stream("chat", {}, { timeouts: { [limit]: SHORT_MS } });
      await assert.rejects(stream.result, (error) => error instanceof RequestTimeout && error.limit === limit);
      await daemon.until(({ cancelled }) => cancelled.length === 1);
      client.close();
    }));
}

test("break, close and an abort cancel the request", options, () =>
  faulty([["read", "event", "read", "event", "read", "wait"]], async (daemon, connect) => {
    const client = await connect();
    const broken = client.stream("chat");
    for await (const event of broken) if (event.type === "delta") break;
    await assert.rejects(broken.result, { code: "cancelled" });
    const closed = client.stream("chat");
    closed.close();
    await assert.rejects(closed.result, { code: "cancelled" });
    const abort = new AbortController();
    const aborted = client.request("chat", {}, { signal: abort.signal });
    abort.abort(new Error("enough"));
    await assert.rejects(aborted, /enough/);
    await daemon.until(({ cancelled }) => cancelled.length === 3);
    client.close();
  }));

const asRoot = { ...options, skip: options.skip || (process.geteuid() !== 0 && "only root can give a socket away") };

test("a socket of another user is refused, and nothing is sent", asRoot, () =>
  faulty([["wait"]], async (daemon, connect) => {
    chownSync(daemon.path, 65534, 65534);
    await assert.rejects(connect(), { code: "permission_denied", message: /User 65534/ });
    assert.deepEqual((await daemon.tell("look")).requests, []);
  }));
