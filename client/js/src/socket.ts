/** Finds the daemon's socket, and starts a daemon if none is running. */
import { spawn } from "node:child_process";
import { lstatSync } from "node:fs";
import { connect as netConnect, type Socket } from "node:net";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { MlxdError, RequestTimeout, unreachable } from "./errors.js";

const CONNECT_MS = 5_000;
const PAUSE_MS = 50;

export interface ConnectOptions {
  /** Path of the socket. By default it comes from the environment. */
  path?: string;
  /** Command that starts a daemon if none is running, or false. Default: `mlxd start`. */
  command?: string[] | false;
}

/** Return the path of the socket in this environment. Throws if MLXD_SOCKET is relative. */
export function socketPath(env: NodeJS.ProcessEnv = process.env): string {
  const chosen = env["MLXD_SOCKET"];
  if (chosen && !isAbsolute(chosen)) {
    const problem = `MLXD_SOCKET must be an absolute path, not "${chosen}".`;
    throw new MlxdError("invalid_request", problem, "Set it to the whole path of the socket, or unset it.");
  }
  if (chosen) return chosen;
  if (env["XDG_RUNTIME_DIR"]) return join(env["XDG_RUNTIME_DIR"], "mlxd", "mlxd.sock");
  if (env["MLXD_STATE_DIR"]) return join(env["MLXD_STATE_DIR"], "mlxd.sock");
  if (process.platform === "darwin") {
    return join(homedir(), "Library", "Application Support", "mlxd", "mlxd.sock");
  }
  return join(env["XDG_STATE_HOME"] || join(homedir(), ".local", "state"), "mlxd", "mlxd.sock");
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

function start(command: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0] ?? "mlxd", command.slice(1), { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (data: Buffer) => (said += data.toString()));
    child.on("error", () => {
      reject(new MlxdError("daemon_unreachable", `${command[0]} is not installed.`, "Install it: pip install mlxd"));
    });
    child.on("close", (status) => (status === 0 ? resolve() : reject(unreachable(said.trim()))));
  });
}
