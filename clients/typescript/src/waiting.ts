/** Waiting: for something that happens again and again, for so long, until an `AbortSignal`. */

import { TimeoutError } from "./errors.ts";

/** Milliseconds that timers can wait at most: with more they would end at once. */
const LONGEST = 2 ** 31 - 1;

/** Time that something may take, and the signal that ends it; both may be left out. */
export interface Limits {
  /** Milliseconds; `null` or `Infinity` for no limit. */
  timeout?: number | null | undefined;
  signal?: AbortSignal | undefined;
}

/** Items between the connection and a reader, in their order. */
export class Inbox<T> {
  items: T[] = [];
  hasEnded = false;
  #changed: Promise<void> | undefined;
  #tell: (() => void) | undefined;

  /** Append an item. */
  put(item: T): void {
    this.items.push(item);
    this.#change();
  }

  /** Take note that no item will come any more. */
  end(): void {
    this.hasEnded = true;
    this.#change();
  }

  /** Remove and return the first item; `undefined` behind the last one. */
  async take(): Promise<T | undefined> {
    while (!this.items.length && !this.hasEnded) {
      await (this.#changed ??= new Promise((resolve) => (this.#tell = resolve)));
    }
    return this.items.shift();
  }

  #change(): void {
    this.#tell?.();
    this.#changed = undefined;
  }
}

/**
 * Return the result of a promise within its limits.
 *
 * The promise has to end once the time is over, or the signal has come.
 *
 * @throws TimeoutError with the text `late` when the time is over; the reason of the signal.
 */
export function within<T>(promise: Promise<T>, limits: Limits, late: () => string): Promise<T> {
  const { timeout, signal } = limits;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal!.reason);
    const expire = () => reject(new TimeoutError(late()));
    const timer = timeout == null || timeout > LONGEST ? undefined : setTimeout(expire, timeout);
    signal?.addEventListener("abort", abort);
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    promise.finally(end).then(resolve, reject);
  });
}
