/** What went wrong, in the daemon's words: `hint` says what to do next. */
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
    /** False where the daemon cannot have read the whole request: sending it again is safe. */
    readonly mayHaveBeenExecuted: boolean,
  ) {
    super("connection_closed", reason, "Ask again. If it happens again: mlxd logs -n 50", true, {
      reason,
      may_have_been_executed: mayHaveBeenExecuted,
    });
  }
}

/** A time limit passed; the request was cancelled. */
export class RequestTimeout extends MlxdError {
  override name = "RequestTimeout";

  constructor(
    message: string,
    readonly limit: string,
    readonly ms: number,
  ) {
    const hint = "See what the daemon does: mlxd status, mlxd logs -n 50";
    super("request_timeout", `${message} within ${ms} ms.`, hint, true, { limit, ms });
  }
}

export function unreachable(reason: string): MlxdError {
  return new MlxdError("daemon_unreachable", `No mlxd answers: ${reason}`, "Start it: mlxd start", true);
}
