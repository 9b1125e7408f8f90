/** Base of clients: connects, authenticates, renews, and connects again until it is closed. */

import type { Authenticate, Caller, CallOptions, Send } from "./authentication.ts";
import type { Call } from "./calls.ts";
import { ClientClosed, CommandError, ConnectionLost, QueueFull } from "./errors.ts";
import { isError, nameOf, type Errors, type Frame } from "./frames.ts";
import { Listeners } from "./listeners.ts";
import { Reconnecting, type Backoff, type ConnectionEnd, type Retry } from "./reconnecting.ts";
import { Session, type WebSocketLike } from "./session.ts";
import { onWakeUp } from "./wakeups.ts";
import { PASSING_LATER, Watches } from "./watches.ts";

/** State of a client. */
export type State = "connecting" | "open" | "waiting" | "closed";

/** Options of a client, complete. */
export interface Settings {
  readonly url: string | URL | (() => string | URL | Promise<string | URL>);
  readonly protocols: string | string[] | undefined;
  readonly WebSocket: new (url: string, protocols?: string | string[]) => WebSocketLike;
  readonly token: string | undefined;
  readonly authenticate: Authenticate | undefined;
  readonly errors: Errors;
  readonly timeout: number | null;
  readonly queue: number;
  readonly buffer: number;
  readonly heartbeat: number | null;
  readonly reconnect: boolean;
  readonly backoff: Backoff | undefined;
  readonly closeCodes: Readonly<Record<number, Retry>> | undefined;
  readonly openTimeout: number | null;
  readonly closeTimeout: number;
}

/** The client's connections, one after the other, and all that outlives each of them. */
export abstract class Connector {
  /** @internal */
  declare readonly settings: Settings;
  /** @internal Functions by the names of their events. */
  readonly listeners = new Map<string, Listeners<any>>();
  /** @internal */
  readonly stateListeners = new Listeners<State>();
  /** @internal */
  readonly watches = new Watches();
  /** `"connecting"`, `"open"`, `"waiting"` or `"closed"`. */
  state: State = "connecting";
  /** End of the last connection or attempt, if there was one: its close code and reason. */
  lost: ConnectionEnd | undefined;
  /** Token of commands that are given none; it may be set, for those sent from then on. */
  token: string | undefined;
  #user: unknown;
  /** Token of the present connection: a new one may be good where that is refused. */
  #tokenBefore: string | undefined;
  /** Calls that wait for a connection, by their ids. */
  #waiting = new Map<number, Call>();
  #reconnecting: Reconnecting;
  /** True after a wake-up, until the next attempt to connect begins. */
  #hurries = false;
  #session: Session | undefined;
  #failure: ClientClosed | undefined;
  #isClosing = false;
  #tellClosed!: () => void;
  #closed = new Promise<void>((resolve) => (this.#tellClosed = resolve));
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastId = 0;
  #stopWakeUps: () => void;

  /** @internal */
  constructor(settings: Settings) {
    this.settings = settings;
    this.token = settings.token;
    this.#reconnecting = new Reconnecting(settings.backoff, settings.closeCodes);
    this.#stopWakeUps = onWakeUp(() => this.#wakeUp());
    this.#connect();
  }

  /**
   * User who is signed in, as `Credentials` or the program has told; `undefined` at first.
   *
   * Setting another user, or `null`, makes the commands fail, with `UserChanged`, that wait for a
   * reply and were called under the one before.
   */
  get user(): unknown {
    return this.#user;
  }

  set user(user: unknown) {
    this.#user = user;
    for (const call of this.#waiting.values()) call.failUnlessOf(user);
    this.#session?.dropOthers(user);
  }

  /** @internal */
  newId(): number {
    return ++this.#lastId;
  }

  /**
   * @internal Send a command, or let it wait for a connection.
   *
   * @throws QueueFull, ClientClosed
   */
  start(call: Call): void {
    if (this.#failure) throw this.#failure;
    call.user = this.user;
    if (this.state === "open") return this.#session!.send(call);
    const { queue } = this.settings;
    if (this.#waiting.size >= queue) {
      throw new QueueFull(`${queue} commands wait already (option queue)`);
    }
    this.#waiting.set(call.id, call);
  }

  /** @internal Take note that nobody waits for a call any more; cancel it if it is a stream. */
  abandon(call: Call): void {
    if (!call.isDone) this.#session?.cancel(call);
    call.abandon();
    this.#waiting.delete(call.id);
  }

  /**
   * Call `authenticate` again, on the present connection, for a token that ends soon.
   *
   * Rejected with its errors. Without a connection nothing happens: the next one begins with it.
   */
  async renew(): Promise<void> {
    if (this.state === "open") await this.#authenticate(this.#session!);
  }

  /**
   * Close the connection with 1000, and do not connect any more; wait until that is done.
   * Everything that waits fails with `ClientClosed`.
   */
  close(): Promise<void> {
    this.#isClosing = true;
    if (this.#session) this.#session.close(this.settings.closeTimeout);
    else this.#finish(new ClientClosed());
    return this.#closed;
  }

  /** @internal Send a command by `send`, and return the payload of its reply. */
  abstract callBy<T>(
    send: Send,
    event: string,
    payload: unknown,
    options: CallOptions | undefined,
  ): Promise<T>;

  async #connect(): Promise<void> {
    const { url, protocols, WebSocket, heartbeat, openTimeout } = this.settings;
    this.#hurries = false;
    this.#setState("connecting");
    this.#tokenBefore = this.token;
    let place: string;
    try {
      place = webSocketUrl(typeof url === "function" ? await url() : url);
    } catch (error) {
      if (error instanceof ClientClosed) return this.#finish(error);
      console.error("websuckets: url failed", error);
      return this.ended({ code: 1006, reason: "url" });
    }
    if (this.#isClosing || this.#failure) return;
    let socket: WebSocketLike;
    try {
      socket = new WebSocket(place, protocols);
    } catch (cause) {
      return this.#finish(new ClientClosed(1006, "see the cause", { cause }));
    }
    this.#session = new Session(socket, this, heartbeat, openTimeout);
  }

  /** @internal Authenticate, then send what has waited for the connection. */
  async opened(session: Session): Promise<void> {
    try {
      await this.#authenticate(session);
    } catch (error) {
      if (this.#session !== session) return; // it has ended meanwhile
      if (error instanceof ClientClosed) this.#failure = error;
      else if (!(error instanceof CommandError)) {
        console.error("websuckets: authenticate failed", error);
      } else if (!PASSING_LATER.includes(error.error)) {
        this.#failure = new ClientClosed(4401, "authenticate was refused", { cause: error });
      }
      return session.end({ code: this.#failure?.code ?? 1006, reason: "authenticate" });
    }
    if (this.#session !== session || !session.isOpen) return;
    session.openedAt = performance.now();
    this.state = "open";
    this.watches.begin(session);
    for (const call of this.#takeWaiting()) session.send(call);
    this.stateListeners.call("open");
  }

  /** Call the function of the program, and take its result. Rejected with its errors. */
  async #authenticate(session: Session): Promise<void> {
    const send: Send = (call) => {
      if (!session.isOpen) throw new ConnectionLost();
      call.isBound = true;
      session.send(call);
    };
    const call: Caller["call"] = (event, payload, options) =>
      this.callBy(send, event, payload, options);
    const result = await this.settings.authenticate?.({ call });
    if (typeof result === "string") this.token = result;
    else if (result != null) {
      this.token = result.token;
      if ("user" in result) this.user = result.user;
    }
  }

  /** @internal */
  ended(end: ConnectionEnd): void {
    const session = this.#session;
    this.#session = undefined;
    this.lost = end;
    this.watches.begin(undefined);
    const { code, reason } = end;
    const error = this.#isClosing ? new ClientClosed() : new ConnectionLost(code, reason);
    for (const call of session?.takeLost(error) ?? []) this.#waiting.set(call.id, call);
    if (error instanceof ClientClosed) return this.#finish(error);
    if (this.#failure) return this.#finish(this.#failure);
    const lasted = performance.now() - session?.openedAt!; // NaN if it was not open
    const { authenticate, reconnect } = this.settings;
    const canChange = !!authenticate || this.token !== this.#tokenBefore;
    const pause = this.#reconnecting.pauseAfter(code, lasted, canChange);
    if (pause === undefined || !reconnect) return this.#finish(new ClientClosed(code, reason));
    this.#timer = setTimeout(() => this.#connect(), pause);
    this.#setState("waiting");
    if (this.#hurries && !session?.openedAt) this.#wakeUp();
  }

  #wakeUp(): void {
    this.#hurries = true;
    if (this.state === "open") this.#session?.probe();
    else if (this.state === "waiting" && this.#reconnecting.mayHurry) {
      clearTimeout(this.#timer);
      this.#connect();
    }
  }

  #finish(failure: ClientClosed): void {
    if (this.state === "closed") return;
    this.#failure = failure;
    clearTimeout(this.#timer);
    this.#stopWakeUps();
    for (const call of this.#takeWaiting()) call.fail(failure);
    this.watches.failAll(failure);
    this.#setState("closed");
    this.#tellClosed();
  }

  /** @internal Take a frame that answers no command that is awaited. */
  receive(frame: Frame): void {
    // With an id, it is the reply to a command for which nobody waits any more.
    if (frame.id != null || this.watches.take(frame)) return;
    if (isError(frame)) console.warn(`websuckets: error "${frame.error}"`);
    else this.listeners.get(nameOf(frame)!)?.call(frame.payload ?? null);
  }

  /** Remove and return the calls that wait, those that were made first at the beginning. */
  #takeWaiting(): Call[] {
    const calls = [...this.#waiting.values()].sort((one, other) => one.id - other.id);
    this.#waiting.clear();
    return calls.filter((call) => !call.isDone);
  }

  #setState(state: State): void {
    if (state === this.state) return;
    this.state = state;
    this.stateListeners.call(state);
  }
}

/** Return a URL with `ws:` or `wss:`; one of `http:` and one relative to the page become such. */
function webSocketUrl(url: string | URL): string {
  const found = new URL(url, globalThis.location?.href);
  found.protocol = found.protocol.replace("http", "ws");
  return found.href;
}
