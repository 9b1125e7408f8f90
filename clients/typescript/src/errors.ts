/** Errors of clients: replies that are errors, and connections that were lost. */

/** Base class of all errors of this package. */
export class WebSucketsError extends Error {
  override readonly name: string = "WebSucketsError"; // minified code has other names of classes
}

/**
 * An error that the server sent: its name, its details, and the id of the command.
 *
 * Subclasses may be given to a client for errors of certain names, by its option `errors`. They
 * are called with the same three arguments.
 */
export class CommandError<
  Name extends string = string,
  Details = unknown,
> extends WebSucketsError {
  override readonly name: string = "CommandError";
  /** Name of the error, as `"validation error"`. */
  declare readonly error: Name;
  declare readonly details: Details;
  declare readonly id: string | number | undefined;

  constructor(error: Name, details: Details, id?: string | number) {
    super(details == null ? error : `${error}: ${JSON.stringify(details)}`);
    this.error = error;
    this.details = details;
    this.id = id;
  }

  /** Milliseconds after which the server wants to be asked again, if it tells them. */
  get retryAfter(): number | undefined {
    const seconds = (this.details as { retry_after?: unknown } | null)?.retry_after;
    return typeof seconds === "number" && seconds >= 0 ? 1000 * seconds : undefined;
  }
}

/**
 * The connection ended before the reply came: the command may have taken effect or not.
 *
 * `code` and `reason` are those of the close frame, or 1006 where there was none.
 */
export class ConnectionLost extends WebSucketsError {
  override readonly name: string = "ConnectionLost";
  declare readonly code: number;
  declare readonly reason: string;

  constructor(
    code = 1006,
    reason = "",
    text = "the connection was lost",
    options?: ErrorOptions,
  ) {
    super(`${text} (${code}${reason && `, ${reason}`})`, options);
    this.code = code;
    this.reason = reason;
  }
}

/**
 * The client is closed, and does not connect any more.
 *
 * It was closed by `Client.close`, which has the code 1000, by a close code after which no client
 * connects again, or by an error of `authenticate`, which is the `cause`.
 */
export class ClientClosed extends ConnectionLost {
  override readonly name = "ClientClosed";

  constructor(code = 1000, reason = "", options?: ErrorOptions) {
    super(code, reason, "the client is closed", options);
  }
}

/**
 * The command was dropped, because another user than that of the call is signed in now.
 *
 * A command with a `key` that was sent before the connection was lost may have taken effect.
 */
export class UserChanged extends ConnectionLost {
  override readonly name = "UserChanged";

  constructor() {
    super(1006, "", "another user has signed in since the call");
  }
}

/** As many commands as the queue holds wait for a connection already; nothing was sent. */
export class QueueFull extends WebSucketsError {
  override readonly name = "QueueFull";
}

/** No reply or no item came in time. The command may take effect yet. */
export class TimeoutError extends WebSucketsError {
  override readonly name = "TimeoutError";
}

/** The server sent something else than this program expects: the two have different versions. */
export class UnexpectedReply extends WebSucketsError {
  override readonly name = "UnexpectedReply";
}

/** Items of a stream came faster than they were taken, and more of them than its buffer holds. */
export class SlowReader extends WebSucketsError {
  override readonly name = "SlowReader";
}

/**
 * Events of a subscription are missing, and it was given no `onReload`.
 *
 * `reply` is the new reply to the command that subscribes, with the present state. Whoever goes
 * on with the iteration gets the events that follow.
 */
export class EventsMissed extends WebSucketsError {
  override readonly name = "EventsMissed";
  declare readonly reply: unknown;

  constructor(event: string, reply: unknown) {
    super(`events of "${event}" were missed`);
    this.reply = reply;
  }
}
