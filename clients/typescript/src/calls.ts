/** Calls: commands from the moment when a program makes them to their final replies. */

import { UserChanged, type ConnectionLost } from "./errors.ts";
import { commandText, type Frame } from "./frames.ts";

/** Command whose replies are awaited on one connection. */
export interface Awaited {
  readonly id: number;
  /** True for a command that keeps no pong waiting, or for whose reply nobody waits. */
  readonly isPatient?: boolean;
  /** True for a command that is to be sent again after the error `in progress`. */
  readonly isAgain?: boolean;
  /** Take an item of a stream; return false to cancel it. */
  item?(frame: Frame): boolean;
  /** Take the final reply. */
  reply(frame: Frame): void;
  /** Take note that the connection was lost; return true to be sent on the next one. */
  lose?(error: ConnectionLost): boolean;
  /** Fail the command if another user than this one has called it. */
  failUnlessOf?(user: unknown): void;
  /** Return the frame of the command, with this token unless it has its own. */
  text(token: string | undefined): string;
}

/** A command, whose final reply ends it. */
export class Call implements Awaited {
  declare readonly id: number;
  declare readonly event: string;
  /** `undefined` for a call that was made before any user was known. */
  declare user: unknown;
  /** True for a call of `authenticate`, which makes it again on the next connection. */
  isBound = false;
  isDone = false;
  /** The final reply. Rejected with the error with which the call failed. */
  declare readonly frame: Promise<Frame>;
  #resolve!: (frame: Frame) => void;
  #reject!: (error: Error) => void;
  #payload: string | undefined;
  #token: string | undefined;
  #key: string | undefined;

  /** Encodes the payload, so that a command that is sent again is the same one. */
  constructor(id: number, event: string, payload: unknown, token?: string, key?: string) {
    this.id = id;
    this.event = event;
    this.#payload = JSON.stringify(payload) as string | undefined;
    this.#token = token;
    this.#key = key;
    this.frame = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.frame.catch(() => {}); // who awaits it gets the error
  }

  get isPatient(): boolean {
    return this.isDone;
  }

  get isAgain(): boolean {
    return this.#key !== undefined && !this.isBound && !this.isDone;
  }

  text(token: string | undefined): string {
    const fields = { id: this.id, token: this.#token ?? token, key: this.#key };
    return commandText(this.event, this.#payload, fields);
  }

  reply(frame: Frame): void {
    this.isDone = true;
    this.#resolve(frame);
  }

  lose(error: ConnectionLost): boolean {
    // A message that was too large would be so again, and it may have been this one.
    if (this.isAgain && error.code !== 1009) return true;
    this.fail(error);
    return false;
  }

  /** End the call with an error, unless it has ended. */
  fail(error: Error): void {
    this.isDone = true;
    this.#reject(error);
  }

  failUnlessOf(user: unknown): void {
    const isOfOther = this.user !== undefined && this.user !== user;
    if (isOfOther && !this.isBound) this.fail(new UserChanged());
  }

  /** End the call for which nobody waits any more. */
  abandon(): void {
    this.reply({});
  }
}
