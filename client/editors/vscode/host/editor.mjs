/** What a person does and sees in the editor's window. */
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

  /** Our item in the status bar, once it says this. */
  status(text) {
    return this.page.locator(OURS, { hasText: text }).waitFor();
  }

  /** Our item in the status bar, once its hint says this. */
  statusHint(text) {
    return this.page.locator(`${OURS} [aria-label*="${text}"]`).waitFor();
  }

  /** Wait for a suggestion that is shown and not yet written. */
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

  /** Open a file in front of what a group shows; the group has the focus. */
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

  /** Run a command of the palette. */
  async command(title) {
    const box = this.page.locator(".quick-input-widget");
    await this.press("F1");
    await box.locator("input").waitFor();
    await this.type(title);
    await box.locator(".quick-input-list .focused", { hasText: title }).waitFor();
    await this.press("Enter");
  }

  /** Ask about what is selected. */
  async ask(question) {
    const box = this.page.locator(".quick-input-widget");
    await this.command("mlxd: Ask About the Selection");
    await box.getByText("Ask about the selection", { exact: false }).waitFor();
    await this.type(question);
    await this.press("Enter");
    await box.waitFor({ state: "hidden" });
  }

  /** Wait until a group of editors shows this text; it must fit into the window. */
  shows(group, text) {
    return this.page.waitForFunction(`(${strip})((${linesOf})(${group})) === ${JSON.stringify(text)}`);
  }

  /** Save what is being edited, and wait until it is. */
  async save(name) {
    await this.page.locator(".tab.dirty", { hasText: name }).waitFor();
    await this.press("Control+s");
    await this.page.locator(".tab:not(.dirty)", { hasText: name }).waitFor();
  }

  /** Collect, from now on, each text that a group of editors shows. */
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

  /** Reject with the first notification of ours, so that a failure says why. */
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

/** Runs in the page. Lines are moved about in the tree, so they are put in the order of the eye. */
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

/** ASCII without white space: long lines are wrapped, and blanks are shown by other characters. */
export function strip(text) {
  return text.replace(/[^\x21-\x7e]+/g, "");
}
