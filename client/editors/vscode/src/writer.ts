/** Writing an answer as it comes, where each write takes a while. Knows no editor. */
export class Writer {
  private waiting = "";
  private writing: Promise<void> | undefined;
  private failure: { reason: unknown } | undefined;

  constructor(private readonly write: (text: string) => Promise<void>) {}

  /** Take a piece; what comes during a write goes into the next one. Throws what a write threw. */
  add(piece: string): void {
    this.waiting += piece;
    if (this.failure) throw this.failure.reason;
    this.writing ??= this.drain();
  }

  /** Wait until all is written; rejects with what a write threw. */
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
