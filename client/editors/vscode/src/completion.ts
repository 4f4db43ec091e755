/** Decides when to request a completion and whether its answer is current. Editor-independent. */
import type { Client, Options } from "mlxd-client";

export interface Wish {
  prefix: string;
  suffix: string;
  /** Identifies the document. A newer request for it cancels the older one, also in the daemon. */
  key: string;
  debounceMs: number;
  budgetMs: number;
  maxTokens: number;
  model?: string;
}

export class Completer {
  readonly counts = { asked: 0, dropped: 0 };
  private latest = 0;

  constructor(private readonly client: () => Promise<Client>) {}

  /** Return a completion, or "" if there is none, it is late, or it was cancelled. */
  async complete(wish: Wish, signal: AbortSignal): Promise<string> {
    const mine = ++this.latest;
    if (!wish.prefix.trim() || !(await this.pause(wish.debounceMs, mine, signal))) return "";
    this.counts.asked += 1;
    const timeout = AbortSignal.timeout(wish.budgetMs);
    try {
      const client = await this.client();
      const options = { ...params(wish), signal: AbortSignal.any([signal, timeout]) };
      const done = await client.fill(wish.prefix, wish.suffix, options);
      const text = done.choices[0]?.text ?? "";
      return text.trim() ? text : "";
    } catch {
      this.counts.dropped += 1; // superseded, late, no daemon: a completion that does not come is no news
      return "";
    }
  }

  private async pause(ms: number, mine: number, signal: AbortSignal): Promise<boolean> {
    if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
    return mine === this.latest && !signal.aborted;
  }
}

function params(wish: Wish): Options {
  return {
    max_tokens: wish.maxTokens,
    temperature: 0,
    supersede: wish.key,
    deadline_s: wish.budgetMs / 1000,
    ...(wish.model ? { model: wish.model } : {}),
  };
}
