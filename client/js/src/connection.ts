/** One socket and its requests in flight. */
import type { Socket } from "node:net";
import type { Call } from "./call.js";
import { messages as read, notification, request, type Wire } from "./codec.js";
import { ConnectionClosed, MlxdError } from "./errors.js";
import type { Event } from "./types.js";

export const WENT_AWAY = "The daemon went away before the answer was complete.";
export const CLOSED = "The client was closed before the answer was complete.";

export class Connection {
  /** Why the connection ended. Undefined while it is open. */
  lost: string | undefined;
  /** Resolves when the connection has ended. Never rejects. */
  readonly closed: Promise<void>;
  private readonly calls = new Map<number, Call>();
  private readonly tags = new Map<unknown, Call>();
  private lastId = 0;

  constructor(private readonly socket: Socket) {
    socket.on("error", () => undefined); // the stream also ends, which is handled
    this.closed = this.listen();
  }

  /** Whether nothing can be sent any more. */
  get dead(): boolean {
    return this.lost !== undefined || !this.socket.writable;
  }

  submit(call: Call): void {
    call.id = ++this.lastId;
    const data = request(call.id, call.method, call.params);
    this.calls.set(call.id, call);
    const tag = tagOf(call);
    if (tag !== undefined) this.tags.set(tag, call);
    call.sentOn(this);
    this.socket.write(data, (error) => {
      call.whole = !error;
    });
  }

  cancel(call: Call): void {
    if (this.forget(call) && !this.dead) this.socket.write(notification("cancel", { id: call.id }));
  }

  /** Close the connection. Every request rejects. */
  close(reason: string): void {
    this.lose(reason);
    this.socket.destroy();
  }

  private async listen(): Promise<void> {
    try {
      for await (const message of read(this.socket)) this.dispatch(message);
      this.lose(WENT_AWAY);
    } catch (error) {
      const garbage = error instanceof MlxdError ? error.message : undefined;
      this.lose(garbage ?? WENT_AWAY);
    } finally {
      this.socket.destroy();
    }
  }

  private dispatch(message: Wire): void {
    if (message.kind === "event") {
      const key = message.event["id"];
      const call = this.tags.get(key) ?? this.calls.get(key as number);
      call?.event(message.event as unknown as Event);
      return;
    }
    if (message.id === null) return this.refused(MlxdError.fromMap(message.error ?? {}));
    const call = this.calls.get(message.id);
    if (!call) return; // the request was cancelled
    this.forget(call);
    if (message.error) call.reject(MlxdError.fromMap(message.error));
    else call.resolve(message.result);
  }

  /** The daemon refused the connection as a whole. */
  private refused(error: MlxdError): void {
    this.lose(error.message, error);
  }

  private lose(reason: string, error?: MlxdError): void {
    this.lost ??= reason;
    const left = [...this.calls.values()];
    this.calls.clear();
    this.tags.clear();
    for (const call of left) call.reject(error ?? new ConnectionClosed(reason, call.whole));
  }

  private forget(call: Call): boolean {
    if (this.tags.get(tagOf(call)) === call) this.tags.delete(tagOf(call));
    return this.calls.delete(call.id);
  }
}

function tagOf(call: Call): unknown {
  return (call.params as { tag?: unknown }).tag;
}
