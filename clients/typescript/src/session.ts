/** Session of a client on one connection: its frames, its commands in flight, its heartbeat. */

import type { Awaited, Call } from "./calls.ts";
import type { ConnectionLost } from "./errors.ts";
import { errorOf, isError, nameOf, readFrame, type Frame } from "./frames.ts";
import type { ConnectionEnd } from "./reconnecting.ts";

/** Milliseconds in which a connection has to answer that may have been lost without a notice. */
const PROBE = 5_000;

/** Milliseconds by which browsers delay the timers of hidden pages at most. */
const THROTTLED = 60_000;

/** What the client uses of a `WebSocket`. */
export interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

/** What a session calls. */
export interface SessionOwner {
  /** Token of commands that have none. */
  readonly token: string | undefined;
  /** Take note that the connection is open. */
  opened(session: Session): void;
  /** Take a frame that answers no command of the session. */
  receive(frame: Frame): void;
  /** Take note of the end, once. */
  ended(end: ConnectionEnd): void;
}

/**
 * One connection, from its opening handshake to its end.
 *
 * After `heartbeat` milliseconds without a frame a ping is sent, and after as long again the
 * connection is lost, unless a command that was sent before may keep the pong waiting.
 */
export class Session {
  isOpen = false;
  /** Time at which the session was authenticated. */
  openedAt: number | undefined;
  #socket: WebSocketLike;
  #owner: SessionOwner;
  #heartbeat: number | null;
  #awaited = new Map<number, Awaited>();
  #timers = new Set<ReturnType<typeof setTimeout>>();
  #pings = 0;
  #hasHeard = false;
  /** Commands that were in flight at the first ping without an answer, and keep it waiting. */
  #inFlight: Awaited[] | undefined;

  constructor(
    socket: WebSocketLike,
    owner: SessionOwner,
    heartbeat: number | null,
    openTimeout: number | null,
  ) {
    this.#socket = socket;
    this.#owner = owner;
    this.#heartbeat = heartbeat;
    socket.onopen = () => {
      this.isOpen = true;
      if (heartbeat !== null) this.#beat(heartbeat);
      owner.opened(this);
    };
    socket.onmessage = ({ data }) => {
      this.#hasHeard = true;
      this.#inFlight = undefined;
      this.#take(readFrame(data));
    };
    socket.onclose = ({ code, reason }) => this.end({ code, reason });
    socket.onerror = () => {}; // the close that follows says as much
    if (openTimeout !== null) {
      this.soon(openTimeout, () => this.isOpen || this.#lose("no answer"));
    }
  }

  /** Send a command, and give it the replies. */
  send(command: Awaited): void {
    this.#awaited.set(command.id, command);
    this.#post(command.text(this.#owner.token));
  }

  /** Call a function after so many milliseconds, unless the connection ends before. */
  soon(time: number, apply: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      apply();
    }, time);
    this.#timers.add(timer);
  }

  /** Cancel a command, if it is a stream and was sent on this connection. */
  cancel({ id }: Awaited): void {
    if (this.#awaited.has(id)) this.#post(`{"cancel":${id}}`);
  }

  /** Fail the calls in flight that other users than this one have made. */
  dropOthers(user: unknown): void {
    for (const command of this.#awaited.values()) command.failUnlessOf?.(user);
  }

  /**
   * Ask the server for an answer, which has to come soon.
   *
   * @param isSure True where also commands in flight, which may keep the pong waiting, do not
   * excuse that no frame comes.
   */
  probe(isSure = false): void {
    if (!this.isOpen) return;
    this.#ping();
    const asked = this.#inFlight;
    const time = Math.min(PROBE, this.#heartbeat ?? PROBE);
    this.soon(time, () => this.#inFlight === asked && this.#giveUp(isSure));
  }

  /** Close the connection with 1000, and end when the server does so, too, or after so long. */
  close(time: number): void {
    this.soon(this.isOpen ? time : 0, () => this.#lose("closed"));
    this.isOpen = false;
    this.#socket.close(1000);
  }

  /** End the session, as the connection is closed, or of no use any more. */
  end(end: ConnectionEnd): void {
    this.isOpen = false;
    for (const timer of this.#timers) clearTimeout(timer);
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(); // which may take until the other side is found dead
    this.#owner.ended(end);
  }

  /** Fail the commands that were in flight, and return those that are to be sent again. */
  takeLost(error: ConnectionLost): Call[] {
    const awaited = [...this.#awaited.values()];
    this.#awaited.clear();
    return awaited.filter((command) => command.lose?.(error)) as Call[];
  }

  #take(frame: Frame): void {
    const id = frame.id as number;
    const command = this.#awaited.get(id);
    if (!command || nameOf(frame) === undefined) {
      if (this.isOpen) this.#owner.receive(frame);
    } else if (frame.more === true) {
      if (command.item?.(frame) === false) this.cancel(command);
    } else if (isError(frame) && frame.error === "in progress" && command.isAgain) {
      this.soon(errorOf(frame).retryAfter ?? 1000, () => {
        if (this.#awaited.has(id)) this.#post(command.text(this.#owner.token));
      });
    } else {
      this.#awaited.delete(id);
      command.reply(frame);
    }
  }

  #beat(heartbeat: number): void {
    const due = Date.now() + heartbeat;
    this.soon(heartbeat, () => {
      const late = Date.now() - due;
      this.#beat(heartbeat);
      if (late > heartbeat) {
        // Timers stood still: the page was hidden or frozen, or the machine has slept.
        this.#inFlight = undefined;
        return this.probe(late > heartbeat + THROTTLED);
      }
      if (this.#inFlight) this.#giveUp(false);
      else if (!this.#hasHeard) this.#ping();
      this.#hasHeard = false;
    });
  }

  #ping(): void {
    this.#inFlight ??= [...this.#awaited.values()];
    this.#post(`{"ping":${++this.#pings}}`);
  }

  #giveUp(isSure: boolean): void {
    if (isSure || this.#inFlight!.every((command) => command.isPatient)) {
      this.#lose("no answer");
    } else this.#ping();
  }

  #lose(reason: string): void {
    this.end({ code: 1006, reason });
  }

  #post(text: string): void {
    if (this.isOpen) this.#socket.send(text);
  }
}
