/** A test environment in one folder: home, daemon, editor server and a project. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { EXTENSION, SERVER, VSCE } from "./places.mjs";

const run = promisify(execFile);
const LISTENS = /Web UI available at (http:\S+)/;

export class World {
  constructor() {
    // Short, because a socket path is limited in length.
    this.folder = mkdtempSync(join(tmpdir(), "mlxd-vsc-"));
    for (const name of ["home", "run", "project", "editor/data/Machine"]) {
      mkdirSync(join(this.folder, name), { recursive: true, mode: 0o700 });
    }
    // The editor takes PATH from a login shell, whose startup files usually reset it.
    writeFileSync(join(this.folder, "home", ".bash_profile"), `export PATH='${process.env.PATH}'\n`);
    this.env = environment(this.folder);
    this.server = undefined;
  }

  path(...names) {
    return join(this.folder, ...names);
  }

  read(name) {
    return readFileSync(this.path("project", name), "utf8");
  }

  write(name, text) {
    writeFileSync(this.path("project", name), text);
  }

  /** Machine settings of the editor. */
  configure(settings) {
    writeFileSync(this.path("editor", "data", "Machine", "settings.json"), JSON.stringify(settings));
  }

  mlxd(...words) {
    return run("mlxd", words, { env: this.env });
  }

  /** Build the package and install it. */
  async install() {
    const vsix = this.path("mlxd.vsix");
    await run(VSCE, ["package", "--no-dependencies", "--allow-missing-repository", "--out", vsix], { cwd: EXTENSION });
    await run(process.execPath, [SERVER, ...this.folders(), "--install-extension", vsix], { env: this.env });
  }

  /** Start the editor server with the project open, and return its address. */
  async serve() {
    const words = [SERVER, ...this.folders(), "--host", "127.0.0.1", "--port", "0", "--without-connection-token"];
    const more = ["--accept-server-license-terms", "--disable-telemetry", "--disable-workspace-trust"];
    this.server = spawn(process.execPath, [...words, ...more], { env: this.env, stdio: ["ignore", "pipe", "inherit"] });
    for await (const line of createInterface({ input: this.server.stdout })) {
      const found = LISTENS.exec(line);
      if (found) {
        this.server.stdout.resume();
        return `${found[1]}/?folder=${this.path("project")}`;
      }
    }
    throw new Error("The editor's server ended without listening.");
  }

  async end() {
    await this.mlxd("stop").catch(() => undefined);
    if (this.server?.exitCode === null) {
      const over = once(this.server, "exit");
      this.server.kill();
      await over;
    }
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 20 });
  }

  folders() {
    return ["--server-data-dir", this.path("editor"), "--extensions-dir", this.path("extensions")];
  }
}

function environment(folder) {
  const kept = Object.entries(process.env).filter(([name]) => !/^(MLXD|XDG|VSCODE|NODE_TEST)_?/.test(name));
  return {
    ...Object.fromEntries(kept),
    HOME: join(folder, "home"),
    SHELL: "/bin/bash",
    XDG_RUNTIME_DIR: join(folder, "run"),
    XDG_STATE_HOME: join(folder, "home", "state"),
    XDG_CONFIG_HOME: join(folder, "home", "config"),
  };
}
