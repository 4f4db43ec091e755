/** Tests against the real daemon at MLXD_SOCKET, with the built-in model. */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Client, MlxdError, findProgram, socketPath } from "../dist/index.js";

/** @type {Client} */
let client;
before(async () => {
  client = await Client.connect();
});
after(() => client.close());

const running = async () => (await client.request("status")).requests.running;
const idle = async () => {
  while (await running()) await new Promise(setImmediate);
};

test("a question is answered", async () => {
  const done = await client.chat("Count from 3 to 7.", { temperature: 0 });
  assert.equal(done.choices[0].text, "3, 4, 5, 6, 7");
  assert.equal(done.applied.model, "pocket");
});

test("text comes as it is written, and adds up to the answer", async () => {
  const parts = [];
  for await (const text of client.chatText("Count from 1 to 20.", { temperature: 0 })) parts.push(text);
  assert.ok(parts.length > 3);
  assert.equal(parts.join(""), Array.from({ length: 20 }, (_, n) => n + 1).join(", "));
});

test("a gap is filled and a text continued", async () => {
  const fill = await client.fill("def add(a, b):\n    return ", "", { temperature: 0, max_tokens: 8 });
  assert.match(fill.choices[0].text, /^a \+ b/);
  const more = await client.generate("Once upon a time", { temperature: 0, max_tokens: 4 });
  assert.equal(more.usage.completion_tokens, 4);
});

test("requests on one connection run at once", async () => {
  const texts = await Promise.all([3, 4, 5].map((n) => client.chat(`Count from 1 to ${n}.`, { temperature: 0 })));
  assert.deepEqual(texts.map((one) => one.choices[0].text), ["1, 2, 3", "1, 2, 3, 4", "1, 2, 3, 4, 5"]);
});

test("an aborted request rejects with the reason and stops the work", async () => {
  const abort = new AbortController();
  const long = client.chat("Count from 0 to 99.", { ignore_eos: true, max_tokens: 9000, signal: abort.signal });
  while (!(await running()));
  abort.abort(new Error("enough"));
  await assert.rejects(long, /enough/);
  await idle();
  await assert.rejects(client.chat("hello", { signal: AbortSignal.abort(new Error("never")) }), /never/);
});

test("leaving the loop stops the work", async () => {
  for await (const text of client.chatText("Count from 0 to 99.", { ignore_eos: true, max_tokens: 9000 })) {
    if (text) break;
  }
  await idle();
});

test("errors come with their code and the next step", async () => {
  await assert.rejects(client.chat("hello", { model: "no-such" }), (error) => {
    assert.ok(error instanceof MlxdError);
    assert.equal(error.code, "model_not_found");
    assert.match(error.hint, /mlx models/);
    return true;
  });
  const stream = client.stream("chat", { messages: [{ role: "user", content: "x" }], temprature: 1 });
  await assert.rejects(async () => {
    for await (const _ of stream);
  }, /temprature/);
});

test("a closed connection rejects what waits and what comes", async () => {
  const other = await Client.connect();
  const long = other.chat("Count from 0 to 99.", { ignore_eos: true, max_tokens: 9000 });
  while (!(await running()));
  other.close();
  await assert.rejects(long, { code: "connection_closed", mayHaveBeenExecuted: true });
  await assert.rejects(other.request("ping"), { code: "connection_closed", mayHaveBeenExecuted: false });
  await idle();
});

test("the end of a connection is told", async () => {
  const one = await Client.connect({ command: false });
  assert.ok(one.open);
  one.close();
  await one.closed;
  assert.ok(!one.open);
});

test("no daemon is said with the next step", async () => {
  await assert.rejects(Client.connect({ path: "/tmp/no-such/mlxd.sock", command: false }), (error) => {
    assert.equal(error.code, "daemon_unreachable");
    assert.match(error.hint, /mlxd start/);
    return true;
  });
  await assert.rejects(
    Client.connect({ path: "/tmp/no-such/mlxd.sock", command: ["no-such-program"] }),
    /is not installed/,
  );
});

test("the socket is where every client finds it, on Linux and on macOS", () => {
  const golden = new URL("../../../protocol/golden/socket.json", import.meta.url);
  const cases = JSON.parse(readFileSync(golden, "utf8"));
  assert.ok(cases.length > 20);
  for (const { environ, platform, socket, relative } of cases) {
    if (relative) {
      const value = environ[relative];
      assert.throws(() => socketPath(environ, platform), {
        code: "invalid_request",
        message: `${relative} must be an absolute path, not "${value}".`,
        hint: `Set it to the whole path of the ${relative === "MLXD_SOCKET" ? "socket" : "folder"}, or unset it.`,
      });
    } else {
      assert.equal(socketPath(environ, platform), socket.replace(/^~/, userInfo().homedir.replace(/^\/$/, "")));
    }
  }
});

test("a program is found without a PATH where uv and pipx install it", () => {
  const home = mkdtempSync(join(tmpdir(), "mlxd-js-"));
  try {
    const env = { HOME: home, PATH: "/usr/bin:/bin" };
    assert.equal(findProgram("mlxd-own", env), "mlxd-own");
    const program = join(home, ".local", "bin", "mlxd-own");
    mkdirSync(join(home, ".local", "bin"), { recursive: true });
    writeFileSync(program, "#!/bin/sh\n");
    assert.equal(findProgram("mlxd-own", env), "mlxd-own", "it is not executable");
    chmodSync(program, 0o755);
    assert.equal(findProgram("mlxd-own", env), program);
    assert.equal(findProgram("sh", env).endsWith("/bin/sh"), true);
    assert.equal(findProgram("/x/mlxd-own", env), "/x/mlxd-own");
  } finally {
    rmSync(home, { recursive: true });
  }
});
