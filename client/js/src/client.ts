/** A client with one connection, which can have many requests in flight. */
import { Call, type CallOptions, type Timeouts } from "./call.js";
import { CLOSED, Connection } from "./connection.js";
import { ConnectionClosed, MlxdError } from "./errors.js";
import { openSocket, type ConnectOptions } from "./socket.js";
import { Stream } from "./stream.js";
import type { Completion, Event, Message, Options } from "./types.js";

export interface ClientOptions extends ConnectOptions {
  /** Limits of every request. */
  timeouts?: Timeouts;
  /** Open a new connection if the old one is closed before a request is sent. Default: true. */
  reconnect?: boolean;
}

export class Client {
  private opening: Promise<Connection> | undefined;
  private ended = false;

  private constructor(
    private readonly options: ClientOptions,
    private connection: Connection,
  ) {}

  /**
   * Connect. Starts a daemon if none is running. Rejects with `daemon_unreachable`, or with
   * `request_timeout` if the daemon does not accept the connection in time.
   */
  static async connect(options: ClientOptions = {}): Promise<Client> {
    return new Client(options, new Connection(await openSocket(options, options.timeouts?.connectMs)));
  }

  /** Close the connection. The daemon cancels its requests, which reject with `ConnectionClosed`. */
  close(): void {
    this.ended = true;
    this.connection.close(CLOSED);
  }

  /** Whether the connection is open. If it was lost, the next request opens a new one. */
  get open(): boolean {
    return !this.ended && !this.connection.dead;
  }

  /** Resolves when the present connection is closed by either side. Never rejects. */
  get closed(): Promise<void> {
    return this.connection.closed;
  }

  /** Call a method and return its result. Rejects with an `MlxdError`. */
  async request<Result = unknown>(method: string, params: object = {}, options: CallOptions = {}): Promise<Result> {
    return (await this.start(method, params, options).done) as Result;
  }

  /** Answer a question, or a conversation given as a list of messages. */
  chat(messages: string | Message[], options: Options & CallOptions = {}): Promise<Completion> {
    const [params, call] = split(options);
    return this.request("chat", { messages: asMessages(messages), ...params }, call);
  }

  /** Continue a text, without a chat template. */
  generate(prompt: string, options: Options & CallOptions = {}): Promise<Completion> {
    const [params, call] = split(options);
    return this.request("generate", { prompt, ...params }, call);
  }

  /** Generate the text between prefix and suffix. */
  fill(prefix: string, suffix: string, options: Options & CallOptions = {}): Promise<Completion> {
    const [params, call] = split(options);
    return this.request("fill", { prefix, suffix, ...params }, call);
  }

  /** Return the events of a request as they arrive. Leaving the loop early cancels the request. */
  stream(method: string, params: object = {}, options: CallOptions = {}): Stream {
    return new Stream((event) => {
      const call = this.start(method, { ...params, stream: true }, options, event);
      return { done: call.done, leave: () => call.stop(STOPPED()) };
    });
  }

  /** Yield the answer's text as it arrives. Leaving the loop early cancels the request. */
  async *chatText(messages: string | Message[], options: Options & CallOptions = {}): AsyncGenerator<string, Completion> {
    const [params, call] = split(options);
    const stream = this.stream("chat", { messages: asMessages(messages), ...params }, call);
    for await (const event of stream) {
      if (event.type === "delta" && event.channel === "answer") yield event.text;
    }
    return (await stream.result) as Completion;
  }

  private start(method: string, params: object, options: CallOptions, event?: (event: Event) => void): Call {
    const call = new Call(method, params, { timeouts: this.options.timeouts, ...options }, event);
    if (call.ended) return call;
    if (this.ended) call.reject(new ConnectionClosed(CLOSED, false));
    else if (!this.connection.dead) this.connection.submit(call);
    else void this.reopened().then((connection) => this.submit(connection, call), (error: unknown) => call.reject(error));
    return call;
  }

  private submit(connection: Connection, call: Call): void {
    if (call.ended) return; // stopped while it was connected
    if (this.ended) call.reject(new ConnectionClosed(CLOSED, false));
    else connection.submit(call);
  }

  /** Replace the lost connection, once for all waiting callers. */
  private reopened(): Promise<Connection> {
    if (this.options.reconnect === false) {
      return Promise.reject(new ConnectionClosed(this.connection.lost ?? CLOSED, false));
    }
    this.opening ??= this.reopen().finally(() => (this.opening = undefined));
    return this.opening;
  }

  private async reopen(): Promise<Connection> {
    const connection = new Connection(await openSocket(this.options, this.options.timeouts?.connectMs));
    this.connection = connection;
    if (this.ended) connection.close(CLOSED);
    return connection;
  }
}

const STOPPED = (): MlxdError =>
  new MlxdError("cancelled", "The caller cancelled the request.", "Repeat the request when you are ready.");

function split(options: Options & CallOptions): [object, CallOptions] {
  const { signal, timeouts, ...params } = options;
  return [params, { ...(signal && { signal }), ...(timeouts && { timeouts }) }];
}

function asMessages(messages: string | Message[]): Message[] {
  return typeof messages === "string" ? [{ role: "user", content: messages }] : messages;
}
