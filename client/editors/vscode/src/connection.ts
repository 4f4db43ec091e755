/** One connection for the whole editor, opened when it is needed and again when it was lost. */
import { Client, type ConnectOptions } from "mlxd-client";

export class Connection {
  /** The daemon's own default; undefined while none is connected. */
  defaultModel: string | undefined;
  private opening: Promise<Client> | undefined;
  private newest: Client | undefined;

  /** `changed` is called when a daemon was found or lost. */
  constructor(
    private readonly options: () => ConnectOptions,
    private readonly changed: () => void = () => undefined,
  ) {}

  /** Return a connected client; rejects with `daemon_unreachable`, and tries again next time. */
  async client(): Promise<Client> {
    return this.open(this.options());
  }

  /** Connect if a daemon runs already; starts none. */
  async look(): Promise<void> {
    await this.open({ ...this.options(), command: false }).catch(() => undefined);
  }

  /** Hang up; what is in flight stops. */
  async close(): Promise<void> {
    const opening = this.opening;
    this.opening = undefined;
    (await opening?.catch(() => undefined))?.close();
  }

  private async open(options: ConnectOptions): Promise<Client> {
    for (let opening = this.opening; opening; opening = this.opening) {
      const client = await opening.catch(() => undefined);
      if (client?.open) return client;
      // Somebody else may have begun anew while this one waited.
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
