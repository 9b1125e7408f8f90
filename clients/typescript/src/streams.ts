/** Streams of a client: the items that one command is answered with. */

import { Call } from "./calls.ts";
import type { Connector } from "./connector.ts";
import { SlowReader, UnexpectedReply, type ConnectionLost } from "./errors.ts";
import { errorOf, isError, type Frame } from "./frames.ts";
import { Items } from "./items.ts";
import { Inbox, within, type Limits } from "./waiting.ts";

/** A command that is answered with items, as the connection sees it. */
export class StreamCall extends Call {
  #inbox = new Inbox<Frame>();
  #most: number;

  /** @param most Items that may wait; with more of them the stream is cancelled. */
  constructor(id: number, event: string, payload: unknown, token: string | undefined, most: number) {
    super(id, event, payload, token);
    this.#most = most;
  }

  override get isPatient(): boolean {
    return true;
  }

  item(frame: Frame): boolean {
    if (this.isDone) return true; // it is cancelled already
    if (this.#inbox.items.length >= this.#most) {
      this.fail(new SlowReader(`items of "${this.event}" come too fast`));
      return false;
    }
    this.#inbox.put(frame);
    return true;
  }

  override reply(frame: Frame): void {
    super.reply(frame);
    this.#inbox.end();
  }

  override lose(error: ConnectionLost): boolean {
    this.fail(error);
    return false;
  }

  override fail(error: Error): void {
    super.fail(error);
    this.#inbox.end();
  }

  override abandon(): void {
    this.#inbox.items = [];
    super.abandon();
  }

  /** Return the next item, or the final reply. Rejected with the error that ended the stream. */
  async next(): Promise<Frame> {
    return (await this.#inbox.take()) ?? this.frame;
  }
}

/**
 * Items of a stream, in their order, which `Client.stream` returns.
 *
 * Leaving the iteration, or `close`, cancels the stream on the server. The iteration throws
 * `CommandError` for an error of the server, `ConnectionLost` when the connection was lost, behind
 * the items that came before, `SlowReader`, `TimeoutError` and the reason of its signal.
 */
export class Stream<T = unknown> extends Items<T> {
  #call: StreamCall;
  #connector: Connector;
  #timeout: number | null | undefined;

  /** @internal */
  constructor(call: StreamCall, connector: Connector, limits: Limits) {
    super(limits.signal);
    this.#call = call;
    this.#connector = connector;
    this.#timeout = limits.timeout;
  }

  protected async take(): Promise<{ value: T } | undefined> {
    const { event } = this.#call;
    const timeout = this.#timeout;
    const late = () => `no item of "${event}" within ${timeout} ms`;
    try {
      const frame = await within(this.#call.next(), { timeout }, late);
      if (frame.more === true) return { value: frame.payload as T };
      if (isError(frame)) throw errorOf(frame, this.#connector.settings.errors);
      if (frame.payload == null) return undefined;
      throw new UnexpectedReply(`"${event}" is not a stream`);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  protected leave(): void {
    this.#connector.abandon(this.#call);
  }
}
