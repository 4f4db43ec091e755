/** Writes streamed text through an asynchronous `write`. Editor-independent. */
export class Writer {
  private waiting = "";
  private writing: Promise<void> | undefined;
  private failure: { reason: unknown } | undefined;

  constructor(private readonly write: (text: string) => Promise<void>) {}

  /** Add text. Throws the error of a failed write. Text added during a write goes into the next. */
  add(piece: string): void {
    this.waiting += piece;
    if (this.failure) throw this.failure.reason;
    this.writing ??= this.drain();
  }

  /** Wait until all text is written. Rejects with the error of a failed write. */
  async end(): Promise<void> {
    await this.writing;
    if (this.failure) throw this.failure.reason;
  }

  private async drain(): Promise<void> {
    try {
      while (this.waiting) {
        const text = this.waiting;
        this.waiting = "";
        await this.write(text);
      }
    } catch (reason) {
      this.failure = { reason };
    } finally {
      this.writing = undefined;
    }
  }
}
