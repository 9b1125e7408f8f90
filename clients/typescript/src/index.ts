/** Client of a websuckets server, which connects again, sends again, and catches up. */

export type { Caller, CallOptions, Credentials } from "./authentication.ts";
export {
  Client,
  type AnyCallOptions,
  type AnySubscribeOptions,
  type ClientOptions,
  type OnceOptions,
  type StreamOptions,
  type SubscribeOptions,
} from "./client.ts";
export type { State } from "./connector.ts";
export {
  ClientClosed,
  CommandError,
  ConnectionLost,
  EventsMissed,
  QueueFull,
  SlowReader,
  TimeoutError,
  UnexpectedReply,
  UserChanged,
  WebSucketsError,
} from "./errors.ts";
export type { Errors, ReceivedEvent, Since } from "./frames.ts";
export type { Events, Listener } from "./listeners.ts";
export { CLOSE_CODES, type Backoff, type ConnectionEnd, type Retry } from "./reconnecting.ts";
export type { WebSocketLike } from "./session.ts";
export type { Stream } from "./streams.ts";
export type { OnReload, Subscription } from "./subscriptions.ts";
export type { SubscriptionStatus } from "./watches.ts";
