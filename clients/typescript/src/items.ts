/** Items that come one after the other: as an async iterator, or by a function. */

/** Base of streams, subscriptions and events. */
export abstract class Items<T> implements AsyncIterableIterator<T, undefined> {
  #signal: AbortSignal | undefined;
  #isAborted = false;
  #hasEnded = false;

  /** @param signal Ends the iteration, which then throws the reason of the signal. */
  constructor(signal?: AbortSignal) {
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort);
  }

  /** Wait for the next item. Return `undefined` at the end, and once `leave` was called. */
  protected abstract take(): Promise<{ value: T } | undefined>;

  /** Stop, as nobody waits for items any more; `take` that waits returns. */
  protected abstract leave(): void;

  /** Return the next item. */
  async next(): Promise<IteratorResult<T, undefined>> {
    const item = this.#hasEnded ? undefined : await this.take();
    if (this.#isAborted) {
      this.#isAborted = false;
      throw this.#signal!.reason;
    }
    if (item && !this.#hasEnded) return { done: false, value: item.value };
    this.close();
    return { done: true, value: undefined };
  }

  /** End it on this side; an iteration that waits ends, too. */
  close(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#signal?.removeEventListener("abort", this.#abort);
    this.leave();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** End it, as leaving a `for await` does. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return this.next();
  }

  /**
   * Call `apply`, async or not, with each item, one after the other, until the end.
   *
   * @throws The errors of the iteration, and those of `apply`, which end it.
   */
  async forEach(apply: (item: T) => unknown): Promise<void> {
    for await (const item of this) await apply(item);
  }

  #abort = (): void => {
    this.#isAborted = true;
    this.close();
  };
}
