/** Frames: those that the server sends, decoded, and those that the client sends. */

import { CommandError } from "./errors.ts";

/** Fields of a frame that the server sent; of one that is not a JSON object there are none. */
export type Frame = Readonly<Record<string, unknown>>;

/** Epoch and offset of the last event that was received, by the names of channels. */
export type Since = Readonly<Record<string, readonly [epoch: string, offset: number]>>;

/** Class of errors, by the names of the errors. */
export type Errors = Readonly<
  Record<string, new (error: string, details: unknown, id?: string | number) => CommandError>
>;

/**
 * An event that answers no command.
 *
 * Those of channels with a history have the name of their `channel` and their `offset`.
 */
export interface ReceivedEvent<Name extends string = string, Payload = unknown> {
  readonly event: Name;
  readonly payload: Payload;
  readonly channel?: string | undefined;
  readonly offset?: number | undefined;
}

/** Return the frame of a text, which has no fields if it is not a JSON object. */
export function readFrame(text: string): Frame {
  try {
    const found: unknown = JSON.parse(text);
    return isObject(found) ? found : {};
  } catch {
    return {};
  }
}

/** Tell whether a JSON value is an object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Return the name of an event or of an error; `undefined` for a frame that is neither. */
export function nameOf(frame: Frame): string | undefined {
  const { event, error } = frame;
  const name = event === undefined ? error : event;
  return typeof name === "string" ? name : undefined;
}

/** Tell whether a frame is an error. */
export function isError(frame: Frame): boolean {
  return frame.event === undefined && typeof frame.error === "string";
}

/** Return the channel with a history of which a frame is an event or an offset. */
export function channelOf(frame: Frame): string | undefined {
  return frame.offset == null ? undefined : (frame.channel as string);
}

/** Return the error of a frame, of the class that `errors` has for its name. */
export function errorOf(frame: Frame, errors: Errors = {}): CommandError {
  const name = String(frame.error);
  const Class = Object.hasOwn(errors, name) ? errors[name]! : CommandError;
  return new Class(name, frame.details ?? null, frame.id as number | undefined);
}

/** Return the frame of a command. The `payload` is JSON, or `undefined` for none. */
export function commandText(
  event: string,
  payload: string | undefined,
  fields: {
    id: number;
    token: string | undefined;
    key?: string | undefined;
    since?: Since | undefined;
  },
): string {
  const sent = payload === undefined ? "" : `"payload":${payload},`;
  return `{"event":${JSON.stringify(event)},${sent}${JSON.stringify(fields).slice(1)}`;
}
