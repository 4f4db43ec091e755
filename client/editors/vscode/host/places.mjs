/** Paths of the programs that the tests use. */
import { accessSync, constants } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const HERE = dirname(fileURLToPath(import.meta.url));
export const EXTENSION = dirname(HERE);
/** The editor's server: code-server's build of VS Code, without code-server itself. */
export const EDITOR = join(HERE, "node_modules", "code-server", "lib", "vscode");
export const SERVER = join(EDITOR, "out", "server-main.js");
export const VSCE = join(HERE, "node_modules", ".bin", "vsce");

const BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/** Return the path of a browser for the editor. */
export function browser() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const found = BROWSERS.map((name) => program(name)).find(Boolean);
  if (found) return found;
  throw new Error("No Chromium is installed. Install it: apt-get install chromium; or say where: CHROMIUM=/path");
}

function program(name) {
  const places = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, name));
  return places.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
