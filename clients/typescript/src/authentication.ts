/** Authentication of a client: the function that runs before all else, and its result. */

import type { Call } from "./calls.ts";
import type { Limits } from "./waiting.ts";

/** Options of one command. */
export interface CallOptions extends Limits {
  /** Milliseconds from the call on; that of the client by default. `null` for no limit. */
  timeout?: number | null | undefined;
  /** Ends the call, which then throws the reason of the signal; the command may take effect. */
  signal?: AbortSignal | undefined;
  /** A token for this command alone. */
  token?: string | undefined;
}

/** The new connection, before it is open for others: what `authenticate` calls commands by. */
export interface Caller {
  call<T = unknown>(event: string, payload?: unknown, options?: CallOptions): Promise<T>;
}

/** Result of `authenticate`: the token of later commands, and the user whose token it is. */
export interface Credentials {
  token?: string | undefined;
  /**
   * Anything that tells users apart by `===`; `null` for nobody. Where it changes, commands that
   * another user has called, and that have no reply yet, fail with `UserChanged`.
   */
  user?: unknown;
}

/** Function of the program that authenticates. */
export type Authenticate = (
  connection: Caller,
) => Promise<string | Credentials | null | void> | string | Credentials | null | void;

/** Function that sends a command. */
export type Send = (call: Call) => void;
