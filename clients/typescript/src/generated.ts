/** What clients that `websuckets client typescript` generates are made of, and how to use them. */

import type { CommandError } from "./errors.ts";

/** Reply to a command that declares the errors `E`: a promise, for `outcome`, too. */
export interface Reply<T, E extends CommandError = never> extends Promise<T> {
  /** Names of the declared errors. */
  readonly errors: readonly E["error"][];
}

/** A reply, or one of the errors that its command declares. */
export type Outcome<T, E extends CommandError> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: E };

/** Return a promise as the reply of a command that declares errors of these names. */
export function declaring<T, E extends CommandError = never>(
  promise: Promise<T>,
  ...errors: E["error"][]
): Reply<T, E> {
  return Object.assign(promise, { errors });
}

/**
 * Wait for a reply, and return it or the declared error with which the command was refused.
 *
 * @throws All other errors, as those of the connection.
 */
export async function outcome<T, E extends CommandError>(
  reply: Reply<T, E>,
): Promise<Outcome<T, E>> {
  try {
    return { ok: true, value: await reply };
  } catch (error) {
    if (!reply.errors.includes((error as E).error)) throw error;
    return { ok: false, error: error as E };
  }
}

/**
 * Throw, since a case was not handled. The program compiles only if there is none: `default:
 * unhandled(error)` at the end of a `switch` over the errors of a command.
 */
export function unhandled(value: never): never {
  throw new Error(`not handled: ${value}`);
}

/** Users have come to a channel, or have left it. */
export interface Presence {
  readonly channel: string;
  readonly joined: readonly (string | number)[];
  readonly left: readonly (string | number)[];
}

/**
 * Return the name of the channel of a `pattern` with these `parameters`.
 *
 * @throws RangeError for a parameter whose text is empty or has a slash.
 */
export function channelName(pattern: string, parameters: Record<string, string | number>): string {
  return pattern.replace(/\{([^{}]*)\}/g, (_, name: string) => {
    const text = String(parameters[name]);
    if (!text || text.includes("/")) {
      throw new RangeError(`${pattern}: "${text}"`);
    }
    return text;
  });
}
