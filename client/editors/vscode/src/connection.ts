/** The editor's only connection. It opens on first use, and again after it was lost. */
import { Client, type ConnectOptions } from "mlxd-client";

export class Connection {
  /** The daemon's default model, or undefined while there is no connection. */
  defaultModel: string | undefined;
  private opening: Promise<Client> | undefined;
  private newest: Client | undefined;

  /** Calls `changed` when a daemon is connected or lost. */
  constructor(
    private readonly options: () => ConnectOptions,
    private readonly changed: () => void = () => undefined,
  ) {}

  /** Return a connected client. Rejects with `daemon_unreachable`. The next call tries again. */
  async client(): Promise<Client> {
    return this.open(this.options());
  }

  /** Connect to a running daemon. Never starts one. */
  async look(): Promise<void> {
    await this.open({ ...this.options(), command: false }).catch(() => undefined);
  }

  /** Close the connection. The daemon cancels its requests. */
  async close(): Promise<void> {
    const opening = this.opening;
    this.opening = undefined;
    (await opening?.catch(() => undefined))?.close();
  }

  private async open(options: ConnectOptions): Promise<Client> {
    for (let opening = this.opening; opening; opening = this.opening) {
      const client = await opening.catch(() => undefined);
      if (client?.open) return client;
      // Another caller may have reconnected while this one waited.
      if (this.opening === opening) break;
    }
    this.opening = this.connect(options);
    return this.opening;
  }

  private async connect(options: ConnectOptions): Promise<Client> {
    const client = await Client.connect(options);
    const status = await client.request<{ default_model: string }>("status");
    this.newest = client;
    this.know(status.default_model);
    void client.closed.then(() => {
      if (this.newest === client) this.know(undefined);
    });
    return client;
  }

  private know(model: string | undefined): void {
    this.defaultModel = model;
    this.changed();
  }
}
