/** One socket with its requests in flight: a thin shell around `Core`. */
import type { Socket } from "node:net";
import type { Call } from "./call.js";
import { messages } from "./codec.js";
import { Core } from "./core.js";
import { MlxdError } from "./errors.js";

export const WENT_AWAY = "The daemon went away before the answer was complete.";
export const CLOSED = "The client was closed before the answer was complete.";

export class Connection {
  /** Resolves when the connection has ended. Never rejects. */
  readonly closed: Promise<void>;
  private readonly core = new Core<Call>();

  constructor(private readonly socket: Socket) {
    socket.on("error", () => undefined); // the stream also ends, which is handled
    this.closed = this.listen();
  }

  /** Why the connection ended. Undefined while it is open. */
  get lost(): string | undefined {
    return this.core.lost;
  }

  /** Whether nothing can be sent any more. */
  get dead(): boolean {
    return this.lost !== undefined || !this.socket.writable;
  }

  submit(call: Call): void {
    const data = this.core.submit(call);
    call.sentOn(this);
    this.socket.write(data, (error) => {
      call.whole = !error;
    });
  }

  cancel(call: Call): void {
    const data = this.core.cancel(call);
    if (data && !this.dead) this.socket.write(data);
  }

  /** Close the connection. Every request rejects. */
  close(reason: string): void {
    this.core.lose(reason);
    this.socket.destroy();
  }

  private async listen(): Promise<void> {
    try {
      for await (const message of messages(this.socket)) this.core.receive(message);
      this.core.lose(WENT_AWAY);
    } catch (error) {
      const garbage = error instanceof MlxdError ? error.message : undefined;
      this.core.lose(garbage ?? WENT_AWAY);
    } finally {
      this.socket.destroy();
    }
  }
}
