/** One connection for the whole editor, opened when it is needed and again when it was lost. */
import { Client, type ConnectOptions } from "mlxd-client";

export class Connection {
  private opening: Promise<Client> | undefined;

  constructor(private readonly options: () => ConnectOptions) {}

  /** Return a connected client; rejects with `daemon_unreachable`, and tries again next time. */
  async client(): Promise<Client> {
    const before = await this.opening?.catch(() => undefined);
    if (before?.open) return before;
    this.opening = Client.connect(this.options());
    return this.opening;
  }

  /** Hang up; what is in flight stops. */
  async close(): Promise<void> {
    const client = await this.opening?.catch(() => undefined);
    this.opening = undefined;
    client?.close();
  }
}
