/** Functions of a program, and iterations, that take events by their names. */

import { Items } from "./items.ts";
import { Inbox } from "./waiting.ts";

/** Function, async or not, of the payload of an event. Its errors are written to the console. */
export type Listener<T> = (payload: T) => unknown;

/** Functions that are called with values. */
export class Listeners<T> {
  #functions = new Set<Listener<T>>();

  /** Call a function with each value from now on; return its removal. */
  add(apply: Listener<T>): () => void {
    this.#functions.add(apply);
    return () => void this.#functions.delete(apply);
  }

  /** Call the functions with a value. */
  call(value: T): void {
    for (const apply of [...this.#functions]) void run(apply, value);
  }
}

async function run<T>(apply: Listener<T>, value: T): Promise<void> {
  try {
    await apply(value);
  } catch (error) {
    console.error("websuckets: a listener failed", error);
  }
}

/** Payloads of the events of one name, from the call of `Client.events` on. */
export class Events<T = unknown> extends Items<T> {
  #inbox = new Inbox<{ value: T }>();
  #remove: () => void;

  /** @internal */
  constructor(signal: AbortSignal | undefined, add: (put: Listener<T>) => () => void) {
    super(signal);
    this.#remove = add((value) => this.#inbox.put({ value }));
  }

  protected take(): Promise<{ value: T } | undefined> {
    return this.#inbox.take();
  }

  protected leave(): void {
    this.#inbox.end();
    this.#remove();
  }
}
