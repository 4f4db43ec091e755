/** Finds the daemon's socket, and starts a daemon if none is running. */
import { spawn } from "node:child_process";
import { accessSync, constants, lstatSync } from "node:fs";
import { connect as netConnect, type Socket } from "node:net";
import { userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { MlxdError, RequestTimeout, unreachable } from "./errors.js";

const CONNECT_MS = 5_000;
const PAUSE_MS = 50;

export interface ConnectOptions {
  /** Path of the socket. By default it comes from the environment. */
  path?: string;
  /** Command that starts a daemon if none is running, or false. Default: `mlxd start`. */
  command?: string[] | false;
}

/**
 * Return the path of the socket in this environment. macOS ignores `XDG_*`. Throws if MLXD_SOCKET
 * or MLXD_STATE_DIR is relative.
 */
export function socketPath(env: NodeJS.ProcessEnv = process.env, platform: string = process.platform): string {
  if (env["MLXD_SOCKET"]) return absolute("MLXD_SOCKET", env["MLXD_SOCKET"], "socket");
  const xdg = (name: string) => (platform !== "darwin" && env[name]?.startsWith("/") ? env[name] : undefined);
  const runtime = xdg("XDG_RUNTIME_DIR");
  if (runtime) return join(runtime, "mlxd", "mlxd.sock");
  if (env["MLXD_STATE_DIR"]) return join(absolute("MLXD_STATE_DIR", env["MLXD_STATE_DIR"], "folder"), "mlxd.sock");
  const home = env["HOME"] || userInfo().homedir;
  if (platform === "darwin") return join(home, "Library", "Application Support", "mlxd", "mlxd.sock");
  return join(xdg("XDG_STATE_HOME") ?? join(home, ".local", "state"), "mlxd", "mlxd.sock");
}

function absolute(variable: string, value: string, what: string): string {
  if (value.startsWith("/")) return value;
  const problem = `${variable} must be an absolute path, not "${value}".`;
  throw new MlxdError("invalid_request", problem, `Set it to the whole path of the ${what}, or unset it.`);
}

/** Return a connected socket. Rejects with `daemon_unreachable`. */
export async function openSocket(options: ConnectOptions, limitMs = CONNECT_MS): Promise<Socket> {
  const path = options.path ?? socketPath();
  try {
    return await connectInTime(path, limitMs);
  } catch (error) {
    if (error instanceof MlxdError) throw error;
    const command = options.command ?? ["mlxd", "start"];
    if (command === false || process.env["MLXD_AUTOSTART"] === "0") throw unreachable(String(error));
    await start(command);
    return connectInTime(path, limitMs).catch((reason: unknown) => Promise.reject(unreachable(String(reason))));
  }
}

/** Connect. Retries while the daemon's accept queue is full. */
async function connectInTime(path: string, limitMs: number): Promise<Socket> {
  const deadline = Date.now() + limitMs;
  while (true) {
    try {
      checkOwner(path);
      return await connectTo(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      const message = `The daemon at ${path} did not accept the connection`;
      if (Date.now() >= deadline) throw new RequestTimeout(message, "connectMs", limitMs);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** Throw if another user created the socket, so that no prompt is sent to it. Root is accepted. */
function checkOwner(path: string): void {
  const { uid } = lstatSync(path);
  if (uid !== 0 && uid !== process.geteuid?.()) {
    const message = `User ${uid} created the socket ${path}, so nothing was sent to it.`;
    throw new MlxdError("permission_denied", message, "Use a socket in your own folder: export MLXD_SOCKET=$HOME/.mlxd.sock");
  }
}

function connectTo(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = netConnect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}

/**
 * Return the path of a program in PATH, or else where uv, pipx and Homebrew install programs:
 * an editor that was started from the Dock has a PATH without them. Otherwise return the name.
 */
export function findProgram(name: string, env: NodeJS.ProcessEnv = process.env): string {
  if (name.includes("/")) return name;
  const home = env["HOME"] || userInfo().homedir;
  const usual = [join(home, ".local", "bin"), "/opt/homebrew/bin", "/usr/local/bin"];
  const inPath = (env["PATH"] ?? "").split(delimiter).filter(Boolean);
  return [...inPath, ...usual].map((folder) => join(folder, name)).find(isExecutable) ?? name;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

const NOT_INSTALLED = "Install mlxd, then run in a terminal: mlxd install";

function start(command: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(findProgram(command[0] ?? "mlxd"), command.slice(1), { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (data: Buffer) => (said += data.toString()));
    child.on("error", () => {
      reject(new MlxdError("daemon_unreachable", `${command[0]} is not installed.`, NOT_INSTALLED));
    });
    child.on("close", (status) => (status === 0 ? resolve() : reject(unreachable(said.trim()))));
  });
}
