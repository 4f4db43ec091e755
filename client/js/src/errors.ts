/** An error of the daemon or the client. `message` states what happened, `hint` the next step. */
export class MlxdError extends Error {
  override name = "MlxdError";

  constructor(
    readonly code: string,
    message: string,
    readonly hint: string,
    readonly retryable = false,
    readonly data: Record<string, unknown> = {},
  ) {
    super(message);
  }

  static fromMap(raw: Record<string, unknown>): MlxdError {
    return new MlxdError(
      String(raw["code"] ?? "internal"),
      String(raw["message"] ?? ""),
      String(raw["hint"] ?? ""),
      Boolean(raw["retryable"]),
      (raw["data"] as Record<string, unknown> | null) ?? {},
    );
  }
}

/** The connection ended before the answer was complete. */
export class ConnectionClosed extends MlxdError {
  override name = "ConnectionClosed";

  constructor(
    /** Why the connection ended. */
    readonly reason: string,
    /** False if the daemon cannot have read the whole request. Sending it again is then safe. */
    readonly mayHaveBeenExecuted: boolean,
  ) {
    super("connection_closed", reason, "Ask again. If it happens again: mlxd logs -n 50", true, {
      reason,
      may_have_been_executed: mayHaveBeenExecuted,
    });
  }
}

/** A time limit passed, and the client cancelled the request. */
export class RequestTimeout extends MlxdError {
  override name = "RequestTimeout";

  constructor(
    message: string,
    readonly limit: string,
    readonly ms: number,
  ) {
    const hint = "See what the daemon is doing: mlxd status";
    super("request_timeout", `${message} within ${ms} ms.`, hint, true, { limit, ms });
  }
}

export function unreachable(reason: string): MlxdError {
  return new MlxdError("daemon_unreachable", `No daemon answers: ${reason}`, "Start it: mlxd start", true);
}
