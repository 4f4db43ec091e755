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

export function unreachable(reason: string): MlxdError {
  return new MlxdError("daemon_unreachable", `No mlxd answers: ${reason}`, "Start it: mlxd start", true);
}
