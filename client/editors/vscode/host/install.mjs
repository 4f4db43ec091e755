/** Installs the editor and its driver once: about 130 MB from npm. */
import { spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EDITOR, HERE } from "./places.mjs";

const DONE = join(HERE, "node_modules", ".complete");
// Install scripts would compile the terminal, search and single sign-on, which the tests do not
// need.
const QUIETLY = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];

function npm(folder, ...words) {
  const done = spawnSync("npm", words, { cwd: folder, stdio: ["ignore", 2, 2] });
  if (done.status !== 0) {
    console.error(`npm ${words[0]} failed in ${folder}. Try again when the package registry can be reached.`);
    process.exit(1);
  }
}

if (!existsSync(DONE)) {
  npm(HERE, "ci", ...QUIETLY);
  npm(EDITOR, "install", "--omit=dev", ...QUIETLY);
  writeFileSync(DONE, "");
}
