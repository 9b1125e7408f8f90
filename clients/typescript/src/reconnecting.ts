/** Reconnecting: after which ends of a connection a client connects again, and when. */

/**
 * Decision about connecting again, after a connection has ended with some close code.
 *
 * - `"at once"`: without a pause, if the attempt before was no such one; else as `"backoff"`.
 * - `"backoff"`: after a random pause of up to a limit that doubles with each failure.
 * - `"later"`: after a long pause, to which that of `"backoff"` is added.
 * - `"new token"`: as `"backoff"`, if `authenticate` can get another token; else as `"never"`.
 * - `"never"`: the client is closed.
 */
export type Retry = "at once" | "backoff" | "later" | "new token" | "never";

/** Decisions by close codes; all other codes are `"backoff"`. */
export const CLOSE_CODES: Readonly<Record<number, Retry>> = {
  1000: "never",
  1002: "never",
  1003: "never",
  1007: "never",
  1008: "never",
  1009: "at once",
  1010: "never",
  4401: "new token",
  4408: "new token",
  4429: "later",
};

/**
 * Pauses between attempts to connect, in milliseconds, with full jitter.
 *
 * The pause after the failure number `n`, counted from 0, is random between 0 and `first * 2**n`,
 * at most `most`.
 */
export interface Backoff {
  /** 500 by default. */
  first?: number;
  /** 30,000 by default. */
  most?: number;
  /** Further time for a client that was sent away as too fast; 30,000 by default. */
  later?: number;
  /** After a connection that has lasted so long, failures are counted anew; 30,000 by default. */
  stable?: number;
  /** Function that returns a number from 0 to 1. */
  random?: () => number;
}

/** End of a connection, or of an attempt to connect. */
export interface ConnectionEnd {
  readonly code: number;
  readonly reason: string;
}

/** The failures of one client, and the pauses that follow from them. */
export class Reconnecting {
  #backoff: Required<Backoff>;
  #codes: Readonly<Record<number, Retry>>;
  /** False for a pause that the server wants. */
  mayHurry = true;
  #failures = 0;
  /** Decision after the end before, unless the connection was stable since. */
  #before: Retry | undefined;

  /** @param codes Decisions for close codes that replace those of `CLOSE_CODES`. */
  constructor(backoff: Backoff = {}, codes: Readonly<Record<number, Retry>> = {}) {
    const all = { first: 500, most: 30_000, later: 30_000, stable: 30_000, random: Math.random };
    this.#backoff = { ...all, ...backoff };
    this.#codes = { ...CLOSE_CODES, ...codes };
  }

  /**
   * Return the milliseconds until the next attempt, or `undefined` where there is to be none.
   *
   * @param lasted Milliseconds for which the connection was open and authenticated; `NaN` if it
   * never was.
   * @param canAuthenticate True where the next connection may have another token.
   */
  pauseAfter(code: number, lasted: number, canAuthenticate: boolean): number | undefined {
    const { first, most, later, stable, random } = this.#backoff;
    if (lasted >= stable) {
      this.#failures = 0;
      this.#before = undefined;
    }
    const retry = this.#codes[code] ?? "backoff";
    const isRepeated = retry === this.#before;
    this.#before = retry;
    if (retry === "never") return undefined;
    if (retry === "new token" && (isRepeated || !canAuthenticate)) return undefined;
    this.mayHurry = retry !== "later";
    if (retry === "at once" && !isRepeated) return 0;
    const pause = random() * Math.min(most, first * 2 ** this.#failures++);
    return this.mayHurry ? pause : later + pause;
  }
}
