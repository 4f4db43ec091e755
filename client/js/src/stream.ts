/** The events of one request. Iterate over them once. `result` is the result of the request. */
import type { Event } from "./types.js";

export class Stream implements AsyncIterable<Event> {
  /** The result of the request. Rejects with its error. */
  readonly result: Promise<unknown>;
  private readonly events: Event[] = [];
  private over = false;
  private error: unknown;
  private wake: () => void = () => undefined;

  constructor(start: (event: (event: Event) => void) => { done: Promise<unknown>; leave(): void }) {
    const { done, leave } = start((event) => {
      this.events.push(event);
      this.wake();
    });
    this.leave = leave;
    this.result = done;
    done.then(
      () => this.end(undefined),
      (error: unknown) => this.end(error), // thrown by the iterator
    );
  }

  private readonly leave: () => void;

  /** Cancel the request if it has not ended. `result` rejects. */
  close(): void {
    if (!this.over) this.leave();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void> {
    try {
      while (true) {
        for (let event = this.events.shift(); event; event = this.events.shift()) yield event;
        if (this.over) break;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      this.close();
    }
    if (this.error !== undefined) throw this.error;
  }

  private end(error: unknown): void {
    this.over = true;
    this.error = error;
    this.wake();
  }
}
