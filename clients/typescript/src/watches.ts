/**
 * Subscriptions as the connection sees them, which go on across connections.
 *
 * A watch keeps a position for each channel, that of the last event that it has put into its
 * buffer. In doubt it sends the command again, with these positions, and the reply decides: after a
 * new connection, after `channel gap`, where an offset is not the next one, and where the buffer
 * was full, once it is empty.
 */

import type { Awaited } from "./calls.ts";
import type { Connector } from "./connector.ts";
import type { ClientClosed } from "./errors.ts";
import {
  channelOf,
  commandText,
  errorOf,
  isError,
  isObject,
  nameOf,
  type Frame,
  type ReceivedEvent,
  type Since,
} from "./frames.ts";
import type { Session } from "./session.ts";
import { Inbox } from "./waiting.ts";

/** Name that stands for all events without a channel. */
const ANY_EVENT = "*";

/** Errors that pass. */
const PASSING = ["in progress", "rate limited", "unavailable"];

/** Errors after which a subscription that has worked before is tried again. */
export const PASSING_LATER = [...PASSING, "timeout", "internal error"];

/**
 * Milliseconds between two attempts to renew a subscription, at most; and for which the reply to
 * one keeps the pong waiting, where the client has no `timeout`.
 */
const LONGEST = 30_000;

/**
 * State of a subscription: `"current"`; `"stale"` without a connection; `"reloading"` while the
 * server is asked whether events were missed.
 */
export type SubscriptionStatus = "current" | "stale" | "reloading";

/** A reply, behind which events begin. */
export interface Begun {
  readonly reply: unknown;
  readonly positions: Since;
  readonly event?: undefined;
}

/** An event, and the epoch of its channel; or a reply. */
export type Received = Begun | { readonly event: ReceivedEvent; readonly epoch?: string };

/** Options of a watch. */
export interface WatchOptions {
  token?: string | undefined;
  since?: Since | undefined;
  events?: readonly string[] | undefined;
  onStatus?: ((status: SubscriptionStatus) => void) | undefined;
}

/** A subscription as the connection sees it. */
export class Watch {
  declare readonly event: string;
  /** Events, and the replies behind which they begin; the first item is the first reply. */
  readonly inbox = new Inbox<Received>();
  failure: Error | undefined;
  positions = new Map<string, readonly [string, number]>();
  status: SubscriptionStatus = "stale";
  /** True where events did not fit into the buffer; `renew` gets them again. */
  hasOverflowed = false;
  #payload: string | undefined;
  #options: WatchOptions;
  #connector: Connector;
  #session: Session | undefined;
  #current: Awaited | undefined;
  #failures = 0;
  #hasBegun = false;

  constructor(
    event: string,
    payload: unknown,
    options: WatchOptions,
    connector: Connector,
  ) {
    this.event = event;
    this.#payload = JSON.stringify(payload) as string | undefined;
    this.#options = options;
    this.#connector = connector;
  }

  /** Send the command on a new connection, or wait for the next one. */
  begin(session: Session | undefined): void {
    this.#session = session;
    this.#current = undefined;
    this.#setStatus("stale");
    this.renew();
  }

  /** Send the command, unless its reply is awaited already. */
  renew(): void {
    const session = this.#session;
    if (!session?.isOpen || this.failure || this.#current) return;
    this.hasOverflowed = false;
    const { token: own, since: first } = this.#options;
    const since = this.positions.size ? Object.fromEntries(this.positions) : first;
    const id = this.#connector.newId();
    const due = Date.now() + (this.#connector.settings.timeout ?? LONGEST);
    const isPatient = () => this.#current !== current || Date.now() > due;
    const current: Awaited = {
      id,
      get isPatient() {
        return isPatient(); // the connection may be dead, and nothing else ends the waiting
      },
      reply: (frame) => this.#current === current && this.#takeReply(frame),
      text: (token) => commandText(this.event, this.#payload, { id, token: own ?? token, since }),
    };
    this.#current = current;
    this.#setStatus("reloading");
    session.send(current);
  }

  /** End the subscription with an error, which the iteration throws behind the events. */
  fail(error: Error): void {
    this.failure ??= error;
    this.#setStatus("stale");
    this.inbox.end();
  }

  /** Take an event; return false if it is not one of this subscription. */
  takeEvent(frame: Frame): boolean {
    const channel = channelOf(frame);
    const name = nameOf(frame);
    // While a reply is awaited, events come once more, behind the reply.
    const waits = this.#current || this.hasOverflowed;
    if (channel === undefined) {
      const { events = [] } = this.#options;
      if (!events.includes(name!) && !events.includes(ANY_EVENT)) return false;
      if (!waits) this.#put(frame);
      return true;
    }
    const position = this.positions.get(channel);
    if (!position) return false;
    if (waits) return true;
    const [epoch, last] = position;
    const offset = frame.offset as number;
    if (offset > last + 1) this.renew();
    else if (offset > last && (name === undefined || this.#put(frame, epoch))) {
      this.positions.set(channel, [epoch, offset]);
    }
    return true;
  }

  #takeReply(frame: Frame): void {
    if (isError(frame)) return this.#takeError(frame);
    this.#current = undefined;
    this.#failures = 0;
    const { since } = this.#options;
    const hasGap = this.#moveTo(isObject(frame.subscribed) ? frame.subscribed : {}, since);
    const begun = { reply: frame.payload ?? null, positions: Object.fromEntries(this.positions) };
    if (!this.#hasBegun) this.inbox.put(begun);
    else if (hasGap) this.inbox.items = []; // the reply has the state behind these events
    if (hasGap && (this.#hasBegun || since)) this.inbox.put(begun);
    this.#hasBegun = true;
    this.#setStatus("current");
  }

  #put(frame: Frame, epoch?: string): boolean {
    if (this.inbox.items.length >= this.#connector.settings.buffer) {
      this.hasOverflowed = true;
      return false;
    }
    const { event, payload = null, channel, offset } = frame;
    this.inbox.put({ event: { event, payload, channel, offset }, epoch } as Received);
    return true;
  }

  /** Take the positions of a reply; return true if events before them are missing. */
  #moveTo(subscribed: Record<string, any>, since: Since = {}): boolean {
    const before = this.positions;
    this.positions = new Map();
    for (const [channel, { epoch, offset, recovered }] of Object.entries(subscribed)) {
      const asked = recovered === true && (before.get(channel) ?? since[channel]);
      this.positions.set(channel, asked || [epoch, offset]);
      subscribed[channel] = asked;
    }
    const all = Object.values(subscribed);
    return !all.length || !all.every(Boolean);
  }

  #takeError(frame: Frame): void {
    const session = this.#session;
    const current = this.#current;
    const error = errorOf(frame, this.#connector.settings.errors);
    if (!(this.#hasBegun ? PASSING_LATER : PASSING).includes(error.error)) {
      this.#current = undefined;
      return this.fail(error);
    }
    const pause = Math.random() * Math.min(LONGEST, 1000 * 2 ** this.#failures++);
    session?.soon(error.retryAfter ?? pause, () => {
      if (this.#current === current) {
        this.#current = undefined;
        this.renew();
      }
    });
  }

  #setStatus(status: SubscriptionStatus): void {
    if (status === this.status) return;
    this.status = status;
    this.#options.onStatus?.(status);
  }
}

/** All subscriptions of a client. */
export class Watches {
  #all = new Set<Watch>();
  #left = new Set<string>();
  #session: Session | undefined;
  #failure: ClientClosed | undefined;

  /** Renew all on a new connection; without one, wait for it. */
  begin(session: Session | undefined): void {
    this.#session = session;
    this.#left.clear();
    for (const watch of this.#all) watch.begin(session);
  }

  /** Begin a subscription, now or on the next connection. */
  add(watch: Watch): void {
    this.#all.add(watch);
    watch.begin(this.#session);
    if (this.#failure) watch.fail(this.#failure);
  }

  /** End a subscription on this side: the server goes on to send its events. */
  remove(watch: Watch): void {
    this.#all.delete(watch);
    watch.begin(undefined);
    watch.inbox.end();
    for (const channel of watch.positions.keys()) this.#left.add(channel);
  }

  /** Take a frame that answers no command; return false if nobody has subscribed to it. */
  take(frame: Frame): boolean {
    const all = [...this.#all];
    if (frame.event === "channel gap") {
      const gap = (frame.payload as { channel?: unknown } | null)?.channel;
      if (typeof gap !== "string") return false; // events sent to the user may be missing
      const named = all.filter((watch) => watch.positions.has(gap));
      const found = named.length ? named : all.filter((watch) => !watch.positions.size);
      for (const watch of found) watch.renew();
      return found.length > 0;
    }
    if (isError(frame)) return false;
    const channel = channelOf(frame);
    const taken = all.filter((watch) => watch.takeEvent(frame)).length > 0;
    return taken || (channel !== undefined && (!nameOf(frame) || this.#left.has(channel)));
  }

  /** End all subscriptions with this error, and those that are yet to come. */
  failAll(error: ClientClosed): void {
    this.#failure = error;
    for (const watch of this.#all) watch.fail(error);
  }
}
