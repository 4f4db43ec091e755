/** One request. It ends exactly once, with a result or an error. */
import { RequestTimeout } from "./errors.js";
import type { Event } from "./types.js";

/** Time limits in milliseconds. By default only connecting is limited, to 5,000. */
export interface Timeouts {
  /** Time until the daemon accepts the connection. */
  connectMs?: number;
  /** Time until the first event of a request, or its result. */
  firstMs?: number;
  /** Time between two events of a request, or until its result. */
  idleMs?: number;
  /** Time until the result. */
  totalMs?: number;
}

export interface CallOptions {
  /** Aborting it cancels the request within a decoding step. The request rejects with the reason. */
  signal?: AbortSignal;
  /** Limits of this request. They replace those of the client. */
  timeouts?: Timeouts;
}

/** The connection of a call, as the call uses it. */
export interface Canceller {
  /** Tell the daemon to cancel the call. */
  cancel(call: Call): void;
}

export class Call {
  readonly done: Promise<unknown>;
  ended = false;
  /** Whether every byte was passed to the system. The daemon may then execute the request. */
  whole = false;
  id = 0;
  private connection: Canceller | undefined;
  private settle!: { resolve(result: unknown): void; reject(error: unknown): void };
  private readonly timers = new Map<string, NodeJS.Timeout>();
  private readonly abort = (): void => this.stop(this.options.signal?.reason);

  constructor(
    readonly method: string,
    readonly params: object,
    private readonly options: CallOptions,
    private readonly onEvent: (event: Event) => void = () => undefined,
  ) {
    this.done = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    if (options.signal?.aborted) {
      this.abort();
      return;
    }
    options.signal?.addEventListener("abort", this.abort, { once: true });
    const { totalMs, firstMs, idleMs } = options.timeouts ?? {};
    this.limit("totalMs", totalMs, "The daemon did not finish the request");
    this.limit("firstMs", firstMs, "The daemon did not begin to answer");
    this.limit("idleMs", idleMs, "The daemon sent nothing");
  }

  /** Remember the connection on which it was sent. */
  sentOn(connection: Canceller): void {
    this.connection = connection;
  }

  event(event: Event): void {
    if (this.ended) return;
    clearTimeout(this.timers.get("firstMs"));
    this.timers.get("idleMs")?.refresh();
    this.onEvent(event);
  }

  resolve(result: unknown): void {
    if (this.end()) this.settle.resolve(result);
  }

  reject(error: unknown): void {
    if (this.end()) this.settle.reject(error);
  }

  /** End the call with this error, and cancel it in the daemon. */
  stop(error: unknown): void {
    if (!this.ended) this.connection?.cancel(this);
    this.reject(error);
  }

  private limit(name: string, ms: number | undefined, message: string): void {
    if (ms === undefined) return;
    this.timers.set(name, setTimeout(() => this.stop(new RequestTimeout(message, name, ms)), ms));
  }

  private end(): boolean {
    if (this.ended) return false;
    this.ended = true;
    this.options.signal?.removeEventListener("abort", this.abort);
    for (const timer of this.timers.values()) clearTimeout(timer);
    return true;
  }
}
