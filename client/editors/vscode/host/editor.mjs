/** Drives the editor's window as a user does. */
import { chromium } from "playwright-core";
import { browser } from "./places.mjs";

const WAIT_MS = 60_000;
const OURS = '.statusbar-item[id="mlxd.mlxd.mlxd"]';

export class Editor {
  static async open(address) {
    const program = await chromium.launch({ executablePath: browser(), args: ["--no-sandbox", "--disable-gpu"] });
    const page = await program.newPage({ viewport: { width: 1280, height: 800 } });
    page.setDefaultTimeout(WAIT_MS);
    await page.goto(address);
    return new Editor(program, page);
  }

  constructor(program, page) {
    this.program = program;
    this.page = page;
  }

  /** Wait for our status bar item to show this text. */
  status(text) {
    return this.page.locator(OURS, { hasText: text }).waitFor();
  }

  /** Wait for our status bar item to have this tooltip. */
  statusHint(text) {
    return this.page.locator(`${OURS} [aria-label*="${text}"]`).waitFor();
  }

  /** Wait for a suggestion that is shown but not accepted. */
  ghost(text) {
    return this.page.waitForFunction(`(${strip})((${ghosts})()) === ${JSON.stringify(text)}`);
  }

  async file(name) {
    await this.page.locator(".explorer-folders-view").getByText(name, { exact: true }).dblclick();
    await this.page.locator(".tab.active", { hasText: name }).waitFor();
    await this.page.locator(".editor-instance .view-lines").first().click();
  }

  /** Bring a tab of a group to the front. */
  async tab(group, name) {
    const tab = this.group(group).locator(".tab", { hasText: name });
    await tab.click();
    await this.group(group).locator(".tab.active", { hasText: name }).waitFor();
  }

  /** Open a file in the focused group. */
  async cover(group, name) {
    await this.press("Control+p");
    await this.page.locator(".quick-input-widget input").waitFor();
    await this.type(name);
    await this.page.locator(".quick-input-list .focused", { hasText: name }).waitFor();
    await this.press("Enter");
    await this.group(group).locator(".tab.active", { hasText: name }).waitFor();
  }

  group(index) {
    return this.page.locator(".editor-group-container").nth(index);
  }

  reload() {
    return this.page.reload();
  }

  press(...keys) {
    return keys.reduce((before, key) => before.then(() => this.page.keyboard.press(key)), Promise.resolve());
  }

  type(text) {
    return this.page.keyboard.type(text, { delay: 20 });
  }

  /** Run a command from the palette. */
  async command(title) {
    const box = this.page.locator(".quick-input-widget");
    await this.press("F1");
    await box.locator("input").waitFor();
    await this.type(title);
    await box.locator(".quick-input-list .focused", { hasText: title }).waitFor();
    await this.press("Enter");
  }

  /** Ask about the selection. */
  async ask(question) {
    const box = this.page.locator(".quick-input-widget");
    await this.command("mlxd: Ask About the Selection");
    await box.getByText("Ask about the selection", { exact: false }).waitFor();
    await this.type(question);
    await this.press("Enter");
    await box.waitFor({ state: "hidden" });
  }

  /** Wait until a group shows this text. It must fit into the window. */
  shows(group, text) {
    return this.page.waitForFunction(`(${strip})((${linesOf})(${group})) === ${JSON.stringify(text)}`);
  }

  /** Save the file in the editor, and wait until it is saved. */
  async save(name) {
    await this.page.locator(".tab.dirty", { hasText: name }).waitFor();
    await this.press("Control+s");
    await this.page.locator(".tab:not(.dirty)", { hasText: name }).waitFor();
  }

  /** Record every text that a group shows from now on. */
  async watch(group) {
    const all = [];
    await this.page.exposeFunction("mlxdSeen", (text) => all.push(strip(text)));
    await this.page.evaluate(`{
      const lines = ${linesOf};
      let before = "";
      const look = () => { const now = lines(${group}); if (now !== before) mlxdSeen(before = now); };
      new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
    }`);
    return all;
  }

  notification(text) {
    return this.page.locator(".notification-toast", { hasText: text });
  }

  /** Reject with our first notification, so that a failure includes the reason. */
  async complaint() {
    throw new Error(await this.notification("mlxd:").first().innerText());
  }

  shot(path) {
    return this.page.screenshot({ path });
  }

  close() {
    return this.program.close();
  }
}

/** Runs in the page. The DOM reuses line elements, so they are sorted by their position. */
function linesOf(group) {
  const editor = document.querySelectorAll(".editor-group-container")[group];
  const lines = [...(editor?.querySelectorAll(".view-lines .view-line") ?? [])];
  const top = (line) => Number.parseFloat(line.style.top);
  return lines.sort((one, other) => top(one) - top(other)).map((line) => line.textContent).join("");
}

/** Runs in the page. */
function ghosts() {
  const parts = [...document.querySelectorAll("[class*=ghost-text]")];
  return parts.filter((part) => !part.querySelector("[class*=ghost-text]")).map((part) => part.textContent).join("");
}

/** ASCII without white space: long lines wrap, and the editor renders spaces as other characters.
 * */
export function strip(text) {
  return text.replace(/[^\x21-\x7e]+/g, "");
}
