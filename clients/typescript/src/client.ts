/** The client that a program creates: `Client`, its commands, events, and its state. */

import type { Authenticate, Caller, CallOptions, Send } from "./authentication.ts";
import { Call } from "./calls.ts";
import { Connector, type Settings, type State } from "./connector.ts";
import { errorOf, isError, type Errors, type ReceivedEvent, type Since } from "./frames.ts";
import { Events, Listeners, type Listener } from "./listeners.ts";
import type { Backoff, ConnectionEnd, Retry } from "./reconnecting.ts";
import { Stream, StreamCall } from "./streams.ts";
import { Subscription, type OnReload } from "./subscriptions.ts";
import { within } from "./waiting.ts";
import { Watch, type SubscriptionStatus } from "./watches.ts";

/** Times its size to which the buffer of a stream may grow. */
const MOST = 10;

/** Options of a command that is declared with `once=True`. */
export interface OnceOptions extends CallOptions {
  /**
   * Text of 1 to 128 characters: with the same key the command takes effect once, and is sent
   * again after a lost connection.
   */
  key?: string | undefined;
}

/** Options of `Client.call`. */
export interface AnyCallOptions extends OnceOptions {
  /** True for a random `key`, unless one is given. */
  once?: boolean | undefined;
}

/** Options of `Client.stream`; `timeout` is that of each item, without a limit by default. */
export type StreamOptions = CallOptions;

/** Options of a subscription; `timeout` is that of the first reply. */
export interface SubscribeOptions<T = unknown> extends CallOptions {
  /** Called, async or not, between two events with the new reply, where events were missed. */
  onReload?: OnReload<T> | undefined;
  /** Called with each new `status` of the subscription. */
  onStatus?: ((status: SubscriptionStatus) => void) | undefined;
  /** Positions of channels, as `Subscription.positions`, behind which the events begin. */
  since?: Since | undefined;
}

/** Options of `Client.subscribe`. */
export interface AnySubscribeOptions<T = unknown> extends SubscribeOptions<T> {
  /** Names of events without a history that come to this subscription; `"*"` for all. */
  events?: readonly string[] | undefined;
}

/** Options of a client. All times are in milliseconds. */
export interface ClientOptions {
  /** Token that is sent with each command. */
  token?: string | undefined;
  /**
   * Called after each connection, before anything else is sent, with the connection, whose `call`
   * does not wait. It returns a token, `Credentials`, or nothing if its commands are all that the
   * server wants.
   */
  authenticate?: Authenticate;
  /** Classes of errors, by the names of the errors. */
  errors?: Errors;
  /** Time of `call` and `subscribe`, 30,000 by default; `null` for no limit. */
  timeout?: number | null;
  /** Commands that may wait for a connection, 100 by default. */
  queue?: number;
  /** Events that wait for each subscription, and a tenth of those of a stream: 1000 by default. */
  buffer?: number;
  /** Half of the time in which a dead connection is noticed, 20,000 by default; `null`: never. */
  heartbeat?: number | null;
  /** False for one connection alone. */
  reconnect?: boolean;
  /** Pauses between attempts to connect. */
  backoff?: Backoff;
  /** Decisions by close codes, which replace those of `CLOSE_CODES`. */
  closeCodes?: Readonly<Record<number, Retry>>;
  /** Time of each opening handshake, 10,000 by default. */
  openTimeout?: number | null;
  /** Time of the closing handshake, 5,000 by default. */
  closeTimeout?: number;
  /** Subprotocols. */
  protocols?: string | string[];
  /** Class of WebSockets, where the platform has none, or is not to be used. */
  WebSocket?: Settings["WebSocket"];
}

/**
 * A client of one server, which connects at once, and again and again until it is closed.
 *
 * Commands wait for the connection. `close` ends it; whatever still waits then fails with
 * `ClientClosed`.
 */
export class Client extends Connector implements Caller {
  declare readonly state: State;
  declare readonly lost: ConnectionEnd | undefined;

  /**
   * @param url Begins with `ws:`, `wss:`, `http:` or `https:`, or is relative to the page. A
   * function, async or not, is called before each attempt, as for a ticket in the query.
   */
  constructor(url: Settings["url"], options: ClientOptions = {}) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    const settings = {
      timeout: 30_000,
      queue: 100,
      buffer: 1000,
      heartbeat: 20_000,
      reconnect: true,
      openTimeout: 10_000,
      closeTimeout: 5_000,
      errors: {},
      WebSocket: globalThis.WebSocket,
      ...(Object.fromEntries(given) as Partial<Settings>),
      url,
    } as Settings;
    if (!settings.WebSocket) {
      throw new TypeError("give the option WebSocket");
    }
    if (!(settings.queue >= 0 && settings.buffer >= 1 && (settings.heartbeat ?? 1) > 0)) {
      throw new RangeError("0 <= queue, 1 <= buffer, 0 < heartbeat");
    }
    super(settings);
  }

  /**
   * Send the command `event` and return the payload of its reply.
   *
   * The `payload` is anything that `JSON.stringify` takes; it is encoded at once. Commands that are
   * declared with `once=True` take `{ once: true }` or a `key`.
   *
   * @throws CommandError for an error of the server; ConnectionLost; ClientClosed; QueueFull;
   * UserChanged; TimeoutError; the reason of the signal.
   */
  call<T = unknown>(event: string, payload?: unknown, options?: AnyCallOptions): Promise<T> {
    return this.callBy((call) => this.start(call), event, payload, options);
  }

  /**
   * Send the command `event` and return the items of its stream, as an async iterator.
   *
   * @throws ClientClosed, QueueFull
   */
  stream<T = unknown>(event: string, payload?: unknown, options: StreamOptions = {}): Stream<T> {
    options.signal?.throwIfAborted();
    const most = this.settings.buffer * MOST;
    const call = new StreamCall(this.newId(), event, payload, options.token, most);
    this.start(call);
    return new Stream(call, this, options);
  }

  /**
   * Send the command `event`, and return its reply and the events that follow.
   *
   * @throws The errors of `call`. A command that is refused on a later connection ends the
   * iteration with its error.
   */
  async subscribe<T = unknown, E extends ReceivedEvent = ReceivedEvent>(
    event: string,
    payload?: unknown,
    options: AnySubscribeOptions<T> = {},
  ): Promise<Subscription<T, E>> {
    const { timeout = this.settings.timeout, signal } = options;
    signal?.throwIfAborted();
    const watch = new Watch(event, payload, options, this);
    const subscription = new Subscription<T, E>(watch, this.watches, options);
    try {
      return await within(subscription.begin(), { timeout, signal }, () => this.#late(event, timeout));
    } catch (error) {
      subscription.close();
      throw error;
    }
  }

  /**
   * Call `apply` with the payload of each event named `event` from now on; return a function that
   * removes `apply` again.
   *
   * Events that answer a command, and those of subscriptions, do not come here.
   */
  on<T = any>(event: string, apply: Listener<T>): () => void {
    const { listeners } = this;
    if (!listeners.has(event)) listeners.set(event, new Listeners());
    return listeners.get(event)!.add(apply);
  }

  /** Return the payloads of the events of `on` as an async iterator. */
  events<T = unknown>(event: string, options: { signal?: AbortSignal } = {}): Events<T> {
    const closed = (state: State) => state === "closed" && events.close();
    const events: Events<T> = new Events(options.signal, (put) => {
      const removals = [this.on(event, put), this.onState(closed)];
      return () => removals.forEach((remove) => remove());
    });
    closed(this.state);
    return events;
  }

  /** Call `apply` with each new `state`; return a function that removes `apply` again. */
  onState(apply: (state: State) => void): () => void {
    return this.stateListeners.add(apply);
  }

  /** @internal */
  async callBy<T>(
    send: Send,
    event: string,
    payload: unknown,
    options: AnyCallOptions = {},
  ): Promise<T> {
    const { timeout = this.settings.timeout, signal, token } = options;
    signal?.throwIfAborted();
    const key = options.key ?? (options.once ? randomKey() : undefined);
    const call = new Call(this.newId(), event, payload, token, key);
    send(call);
    try {
      const frame = await within(call.frame, { timeout, signal }, () => this.#late(event, timeout));
      if (isError(frame)) throw errorOf(frame, this.settings.errors);
      return (frame.payload ?? null) as T;
    } catch (error) {
      this.abandon(call);
      throw error;
    }
  }

  #late(event: string, timeout: number | null): string {
    const state = this.state === "open" ? "" : `; the client is ${this.state}`;
    return `no reply to "${event}" within ${timeout} ms${state}`;
  }
}

/** Return a random key. `crypto.randomUUID` is missing on pages without TLS. */
function randomKey(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}
