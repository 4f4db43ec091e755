/** One connection to the daemon; as many requests at once as you like. */
import type { Socket } from "node:net";
import { messages as read, notification, request, type Wire } from "./codec.js";
import { MlxdError, unreachable } from "./errors.js";
import { openSocket, type ConnectOptions } from "./socket.js";
import type { Completion, Event, Message, Options } from "./types.js";

export interface CallOptions {
  /** Aborting it stops the work in the daemon within a step. */
  signal?: AbortSignal;
}

interface Waiting {
  resolve(result: unknown): void;
  reject(error: unknown): void;
  event?: (event: Event) => void;
}

export class Client {
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;
  private ended = false;
  /** Settled when the connection is over, whoever ended it; never rejects. */
  readonly closed: Promise<void>;

  private constructor(private readonly socket: Socket) {
    socket.on("error", () => undefined); // the end of the stream says it as well
    this.closed = this.listen();
  }

  /** Connect, starting a daemon where none runs. Rejects with `daemon_unreachable`. */
  static async connect(options: ConnectOptions = {}): Promise<Client> {
    return new Client(await openSocket(options));
  }

  /** Hang up; the daemon stops what this connection still had in flight. */
  close(): void {
    this.socket.destroy();
  }

  get open(): boolean {
    return !this.ended;
  }

  /** Call a method and return its result; rejects with the daemon's error. */
  async request<Result = unknown>(method: string, params: object = {}, options: CallOptions = {}): Promise<Result> {
    return (await this.send(method, params, options)) as Result;
  }

  /** Answer a question or a conversation. */
  chat(messages: string | Message[], options: Options & CallOptions = {}): Promise<Completion> {
    const { signal, ...params } = options;
    return this.request("chat", { messages: asMessages(messages), ...params }, { signal });
  }

  /** Continue a text, without a chat template. */
  generate(prompt: string, options: Options & CallOptions = {}): Promise<Completion> {
    const { signal, ...params } = options;
    return this.request("generate", { prompt, ...params }, { signal });
  }

  /** Write what belongs between prefix and suffix. */
  fill(prefix: string, suffix: string, options: Options & CallOptions = {}): Promise<Completion> {
    const { signal, ...params } = options;
    return this.request("fill", { prefix, suffix, ...params }, { signal });
  }

  /** The events of a request as they come. Leaving the loop early stops the work. */
  stream(method: string, params: object = {}, options: CallOptions = {}): Stream {
    const stream = new Stream();
    const id = this.lastId + 1;
    const done = this.send(method, { ...params, stream: true }, options, (event) => stream.push(event));
    done.then((result) => stream.finish(result), (error: unknown) => stream.fail(error));
    stream.onLeave = () => this.cancel(id);
    return stream;
  }

  /** The answer's text as it comes. */
  async *chatText(messages: string | Message[], options: Options & CallOptions = {}): AsyncGenerator<string, Completion> {
    const { signal, ...params } = options;
    const stream = this.stream("chat", { messages: asMessages(messages), ...params }, { signal });
    for await (const event of stream) {
      if (event.type === "delta" && event.channel === "answer") yield event.text;
    }
    return (await stream.result) as Completion;
  }

  private send(
    method: string,
    params: object,
    options: CallOptions,
    event?: (event: Event) => void,
  ): Promise<unknown> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      if (this.ended) return reject(unreachable("the connection is closed"));
      if (options.signal?.aborted) return reject(options.signal.reason);
      const abort = () => {
        this.cancel(id);
        this.waiting.delete(id);
        reject(options.signal?.reason);
      };
      options.signal?.addEventListener("abort", abort, { once: true });
      const over = () => options.signal?.removeEventListener("abort", abort);
      this.waiting.set(id, {
        event,
        resolve: (result) => (over(), resolve(result)),
        reject: (error) => (over(), reject(error)),
      });
      this.socket.write(request(id, method, params));
    });
  }

  private cancel(id: number): void {
    if (this.waiting.has(id) && !this.ended) this.socket.write(notification("cancel", { id }));
  }

  private async listen(): Promise<void> {
    try {
      for await (const message of read(this.socket)) this.dispatch(message);
    } catch {
      // hung up in the middle of a message
    } finally {
      this.end();
    }
  }

  private dispatch(message: Wire): void {
    if (message.kind === "event") {
      this.waiting.get(message.event["id"] as number)?.event?.(message.event as unknown as Event);
      return;
    }
    const one = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if (message.error) one?.reject(MlxdError.fromMap(message.error));
    else one?.resolve(message.result);
  }

  private end(): void {
    this.ended = true;
    const left = [...this.waiting.values()];
    this.waiting.clear();
    for (const one of left) one.reject(unreachable("the daemon went away"));
  }
}

/** Events to iterate over, once; then `result` is the answer. */
export class Stream implements AsyncIterable<Event> {
  readonly result: Promise<unknown>;
  onLeave: () => void = () => undefined;
  private readonly events: Event[] = [];
  private over = false;
  private error: unknown;
  private wake: () => void = () => undefined;
  private settle!: { resolve(result: unknown): void; reject(error: unknown): void };

  constructor() {
    this.result = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    this.result.catch(() => undefined); // whoever iterates gets it
  }

  push(event: Event): void {
    this.events.push(event);
    this.wake();
  }

  finish(result: unknown): void {
    this.over = true;
    this.settle.resolve(result);
    this.wake();
  }

  fail(error: unknown): void {
    this.over = true;
    this.error = error;
    this.settle.reject(error);
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event> {
    try {
      while (true) {
        for (let event = this.events.shift(); event; event = this.events.shift()) yield event;
        if (this.over) break;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      if (!this.over) this.onLeave();
    }
    if (this.error !== undefined) throw this.error;
  }
}

function asMessages(messages: string | Message[]): Message[] {
  return typeof messages === "string" ? [{ role: "user", content: messages }] : messages;
}
