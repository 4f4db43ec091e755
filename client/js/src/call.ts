/** One request: it ends once, with a result or an error, whatever happens first. */
import type { Connection } from "./connection.js";
import { RequestTimeout } from "./errors.js";
import type { Event } from "./types.js";

/** Time limits in milliseconds; absent: no limit, but 5,000 for connecting. */
export interface Timeouts {
  /** Until the daemon accepts the connection. */
  connectMs?: number;
  /** Until the first event of a request, or its result. */
  firstMs?: number;
  /** Without an event of a request, or its result. */
  idleMs?: number;
  /** Until the result. */
  totalMs?: number;
}

export interface CallOptions {
  /** Aborting it stops the work in the daemon within a step; the request rejects with the reason. */
  signal?: AbortSignal;
  /** Limits of this request, in the place of the client's. */
  timeouts?: Timeouts;
}

export class Call {
  readonly done: Promise<unknown>;
  ended = false;
  /** Every byte was handed to the system, so that the daemon may execute it. */
  whole = false;
  id = 0;
  private connection: Connection | undefined;
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

  /** Note the connection that it was sent on. */
  sentOn(connection: Connection): void {
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

  /** End it with this error, and stop the work in the daemon. */
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
