/** Subscriptions of a client: the reply to a command, and the events that follow. */

import { EventsMissed } from "./errors.ts";
import type { ReceivedEvent, Since } from "./frames.ts";
import { Items } from "./items.ts";
import type { Begun, SubscriptionStatus, Watch, Watches } from "./watches.ts";

/** Function that is called with the new reply where events were missed for good. */
export type OnReload<T> = (reply: T) => unknown;

/**
 * A command that subscribes, and the events that follow, which `Client.subscribe` returns.
 *
 * Iterated over, it yields the events of the channels to which the command has subscribed, in their
 * order, each once, across connections. Where events are missing for good, `onReload` is called
 * between two events, with the reply that has the present state. Leaving the iteration, or `close`,
 * ends it on this side.
 *
 * The iteration throws `CommandError` where the command is refused on a later connection,
 * `ClientClosed` when the client is closed, and `EventsMissed`.
 */
export class Subscription<
  T = unknown,
  E extends ReceivedEvent = ReceivedEvent,
> extends Items<E> {
  /** Payload of the last reply to the command: the state behind which the events begin. */
  declare reply: T;
  /**
   * Epoch and offset of the last event that the iteration has yielded, by channels: for `since` of
   * a subscription that goes on where this one has ended.
   */
  positions: Since = {};
  #watch: Watch;
  #all: Watches;
  #onReload: OnReload<T> | undefined;

  /** @internal */
  constructor(
    watch: Watch,
    all: Watches,
    options: { onReload?: OnReload<T> | undefined; signal?: AbortSignal | undefined },
  ) {
    super(options.signal);
    this.#watch = watch;
    this.#all = all;
    this.#onReload = options.onReload;
    all.add(watch);
  }

  /** State of the subscription, beside the state of the connection. */
  get status(): SubscriptionStatus {
    return this.#watch.status;
  }

  /** @internal Wait for the first reply. */
  async begin(): Promise<this> {
    const begun = await this.#watch.inbox.take();
    if (!begun) throw this.#watch.failure;
    this.#begin(begun as Begun);
    return this;
  }

  protected async take(): Promise<{ value: E } | undefined> {
    const watch = this.#watch;
    while (true) {
      if (watch.hasOverflowed && !watch.inbox.items.length) watch.renew();
      const item = await watch.inbox.take();
      if (!item) {
        if (watch.failure) throw watch.failure;
        return undefined;
      }
      if (item.event) {
        const { event, epoch } = item;
        if (epoch) {
          this.positions = { ...this.positions, [event.channel!]: [epoch, event.offset!] };
        }
        return { value: event as E };
      }
      this.#begin(item);
      if (!this.#onReload) throw new EventsMissed(watch.event, item.reply);
      await this.#onReload(this.reply);
    }
  }

  protected leave(): void {
    this.#all.remove(this.#watch);
  }

  #begin({ reply, positions }: Begun): void {
    this.reply = reply as T;
    this.positions = positions;
  }
}
