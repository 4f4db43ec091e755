/** The packaged extension in a real editor, with a real browser and a real daemon. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client } from "mlxd-client";
import { question } from "../dist/parts/prompts.mjs";
import { Editor, strip } from "./editor.mjs";
import { World } from "./world.mjs";

const STORY = "Tell me a story about a fox.";
const SETTINGS = {
  "mlxd.command": [],
  "mlxd.temperature": 0,
  // On a busy machine answers are slow, and late ones are dropped.
  "mlxd.completion.budgetMs": 60000,
  "editor.autoClosingBrackets": "never",
  "files.autoSave": "off",
  "workbench.startupEditor": "none",
};
const world = new World();
let editor;

before(async () => {
  world.configure(SETTINGS);
  world.write("add.py", "def add(a, b):\n");
  world.write("fox.txt", "fox\n");
  await Promise.all([world.install(), world.mlxd("start")]);
  editor = await Editor.open(await world.serve());
});

after(async () => {
  if (process.env.SHOT) await editor?.shot(process.env.SHOT);
  await editor?.close();
  await world.end();
});

test("the status bar says which model answers", async () => {
  await editor.status("pocket");
});

test("a completion appears while typing, and Tab takes it", async () => {
  await editor.file("add.py");
  await editor.press("Control+End");
  await editor.type("    return ");
  await editor.ghost("a+b");
  await editor.press("Tab");
  await editor.save("add.py");
  assert.equal(world.read("add.py"), "def add(a, b):\n    return a + b");
});

test("an answer about the selection comes beside it, word by word", async () => {
  const wanted = await answer(question(STORY, "fox", "plaintext"));
  await editor.file("fox.txt");
  await editor.press("Control+Home", "Shift+End");
  const seen = await editor.watch(1);
  await editor.ask(STORY);
  await editor.shows(1, strip(wanted));
  assert.ok(seen.length > 3, `seen ${seen.length} times`);
  for (const text of seen) assert.ok(strip(wanted).startsWith(text), text);
});

test("an answer goes on while its tab is hidden", async () => {
  const wanted = await answer(question(STORY, "fox", "plaintext"));
  await editor.file("fox.txt");
  await editor.press("Control+Home", "Shift+End");
  const engine = await engineProcess();
  process.kill(engine, "SIGSTOP"); // until the tab is hidden
  try {
    await editor.ask(STORY);
    await editor.tab(1, "Untitled-2");
    await editor.cover(1, "add.py");
    await editor.statusHint("mlxd is answering");
  } finally {
    process.kill(engine, "SIGCONT");
  }
  await editor.statusHint("Completion is on");
  await editor.tab(1, "Untitled-2");
  await editor.shows(1, strip(wanted));
});

test("without a daemon the person is told what to do", async () => {
  await world.mlxd("stop");
  await editor.status("mlxd");
  await editor.ask(STORY);
  await editor.notification("Start it: mlxd start").waitFor();
});

test("a question starts the daemon where that is allowed", async () => {
  world.configure({ ...SETTINGS, "mlxd.command": ["mlxd", "start"] });
  await editor.reload(); // the editor does not notice by itself that the file of settings is another
  await editor.statusHint("The next request starts it");
  await editor.ask(STORY);
  await Promise.race([editor.status("pocket"), editor.complaint()]);
});

/** The daemon's answer to another client. */
async function answer(prompt) {
  const { choices } = await called((client) => client.chat(prompt, { temperature: 0 }));
  return choices[0].text;
}

async function engineProcess() {
  const { engine } = await called((client) => client.request("status"));
  return engine.pid;
}

async function called(work) {
  const client = await Client.connect({ path: world.path("run", "mlxd", "mlxd.sock"), command: false });
  try {
    return await work(client);
  } finally {
    client.close();
  }
}
