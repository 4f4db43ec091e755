/** Finding the daemon's socket, and starting a daemon where none runs. */
import { spawn } from "node:child_process";
import { connect as netConnect, type Socket } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { MlxdError, unreachable } from "./errors.js";

export interface ConnectOptions {
  /** Path of the socket; absent: where the daemon puts it. */
  path?: string;
  /** What starts a daemon where none runs; false: nothing does. Default: `mlxd start`. */
  command?: string[] | false;
}

/** Return where the daemon listens in this environment. */
export function socketPath(env: NodeJS.ProcessEnv = process.env): string {
  if (env["MLXD_SOCKET"]) return env["MLXD_SOCKET"];
  if (env["XDG_RUNTIME_DIR"]) return join(env["XDG_RUNTIME_DIR"], "mlxd", "mlxd.sock");
  if (env["MLXD_STATE_DIR"]) return join(env["MLXD_STATE_DIR"], "mlxd.sock");
  if (process.platform === "darwin") {
    return join(homedir(), "Library", "Application Support", "mlxd", "mlxd.sock");
  }
  return join(env["XDG_STATE_HOME"] || join(homedir(), ".local", "state"), "mlxd", "mlxd.sock");
}

/** Return a connected socket. Rejects with `daemon_unreachable`. */
export async function openSocket(options: ConnectOptions): Promise<Socket> {
  const path = options.path ?? socketPath();
  try {
    return await connectTo(path);
  } catch (error) {
    const command = options.command ?? ["mlxd", "start"];
    if (command === false || process.env["MLXD_AUTOSTART"] === "0") throw unreachable(String(error));
    await start(command);
    return connectTo(path).catch((reason: unknown) => Promise.reject(unreachable(String(reason))));
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
