/**
 * The requests in flight on one connection, without I/O.
 *
 * `submit` and `cancel` return bytes to write. Pass every received message to `receive`, and call
 * `lose` once when the connection ends.
 */
import { notification, request, type Wire } from "./codec.js";
import { ConnectionClosed, MlxdError } from "./errors.js";
import type { Event } from "./types.js";

/** A request, as the core uses it. */
export interface Pending {
  readonly method: string;
  readonly params: object;
  /** Set by `submit`. */
  id: number;
  /** Whether every byte was passed to the system. The daemon may then execute the request. */
  whole: boolean;
  event(event: Event): void;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

export class Core<Call extends Pending = Pending> {
  /** Why the connection ended. Undefined while it is open. */
  lost: string | undefined;
  private readonly calls = new Map<number, Call>();
  private readonly tags = new Map<unknown, Call>();
  private lastId = 0;

  /** The number of requests without a response. */
  get inFlight(): number {
    return this.calls.size;
  }

  /** Register a request and return its bytes. Throws if its parameters cannot be encoded. */
  submit(call: Call): Uint8Array {
    const id = this.lastId + 1;
    const data = request(id, call.method, call.params);
    call.id = this.lastId = id;
    this.calls.set(id, call);
    const tag = tagOf(call);
    if (tag !== undefined) this.tags.set(tag, call);
    return data;
  }

  /** Forget a request and return the bytes that cancel it, or undefined if it has ended. */
  cancel(call: Call): Uint8Array | undefined {
    return this.forget(call) ? notification("cancel", { id: call.id }) : undefined;
  }

  /** Pass a message to its request. Ignores messages of cancelled requests. */
  receive(message: Wire): void {
    if (message.kind === "event") {
      const key = message.event["id"];
      const call = this.tags.get(key) ?? this.calls.get(key as number);
      call?.event(message.event as unknown as Event);
    } else if (message.id === null) {
      // The daemon refuses the connection as a whole.
      const error = MlxdError.fromMap(message.error ?? {});
      this.lose(error.message, error);
    } else {
      this.respond(message.id, message.error, message.result);
    }
  }

  /** End the connection. Every request rejects with `error`, by default with `ConnectionClosed`. */
  lose(reason: string, error?: MlxdError): void {
    this.lost ??= reason;
    const left = [...this.calls.values()];
    this.calls.clear();
    this.tags.clear();
    for (const call of left) call.reject(error ?? new ConnectionClosed(reason, call.whole));
  }

  private respond(id: number, error: Record<string, unknown> | null, result: unknown): void {
    const call = this.calls.get(id);
    if (!call) return;
    this.forget(call);
    if (error) call.reject(MlxdError.fromMap(error));
    else call.resolve(result);
  }

  private forget(call: Call): boolean {
    if (this.tags.get(tagOf(call)) === call) this.tags.delete(tagOf(call));
    return this.calls.delete(call.id);
  }
}

function tagOf(call: Pending): unknown {
  return (call.params as { tag?: unknown }).tag;
}
