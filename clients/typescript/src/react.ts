/** Hooks for React: commands, streams and channels, with their states. */

import { useCallback, useEffect, useRef, useState, type DependencyList } from "react";
import type { StreamOptions, SubscribeOptions } from "./client.ts";
import type { ReceivedEvent } from "./frames.ts";
import type { Stream } from "./streams.ts";
import type { Subscription } from "./subscriptions.ts";
import type { SubscriptionStatus } from "./watches.ts";

/** Milliseconds between two renderings, at least, however many events come. */
const FRAME = 16;

/** State of a command. */
export interface CommandState<T> {
  /** Payload of the last reply. */
  readonly data: T | undefined;
  /** Error of the last run, if it failed. */
  readonly error: Error | undefined;
  /** True while a reply is awaited. */
  readonly loading: boolean;
}

/** State of a command, and the function that runs it. */
export interface UsedCommand<Args extends unknown[], T> extends CommandState<T> {
  /** Run the command. Return the reply, or `undefined` for an error, which `error` has. */
  readonly run: (...args: Args) => Promise<T | undefined>;
}

/** State of a stream. */
export interface StreamState<T> {
  readonly items: readonly T[];
  readonly error: Error | undefined;
  /** True until the first item has come. */
  readonly loading: boolean;
  /** True behind the last item. */
  readonly done: boolean;
}

/** State of a channel. */
export interface ChannelState<T> {
  /** The state of the reply, with the events that have come since. */
  readonly data: T | undefined;
  /** Error that has ended the subscription. */
  readonly error: Error | undefined;
  /** True until the first reply has come. */
  readonly loading: boolean;
  /** True while `data` may be behind: without a connection, or while it is reloading. */
  readonly stale: boolean;
  /** True while the server is asked for what was missed. */
  readonly reloading: boolean;
}

/**
 * Return the state of a command, and `run`, which runs it with its arguments.
 *
 * Of several runs the last one counts. A component that is removed does not end the command.
 *
 * @param command Function that calls it, as `api.noteAdd`.
 */
export function useCommand<Args extends unknown[], T>(
  command: (...args: Args) => Promise<T>,
): UsedCommand<Args, T> {
  const [state, setState] = useState<CommandState<T>>({
    data: undefined,
    error: undefined,
    loading: false,
  });
  const latest = useLatest(command);
  const runs = useRef(0);
  useEffect(() => () => void runs.current++, []);
  const run = useCallback(
    async (...args: Args) => {
      const number = ++runs.current;
      const set = (change: Partial<CommandState<T>>) => {
        if (number === runs.current) setState((before) => ({ ...before, ...change }));
      };
      set({ loading: true, error: undefined });
      try {
        const data = await latest.current(...args);
        set({ data, loading: false });
        return data;
      } catch (error) {
        set({ error: error as Error, loading: false });
        return undefined;
      }
    },
    [latest],
  );
  return { ...state, run };
}

/**
 * Return the items of a stream, which ends with the component.
 *
 * @param start Function that begins it with the options that it is given: `(options) =>
 * api.count(3, options)`.
 * @param deps Values that `start` uses; when one changes, the stream is begun anew.
 */
export function useStream<T>(
  start: (options: StreamOptions) => Stream<T>,
  deps: DependencyList,
): StreamState<T> {
  const initial: StreamState<T> = { items: [], error: undefined, loading: true, done: false };
  return useRunning(initial, deps, async (update, signal) => {
    const items: T[] = [];
    for await (const item of start({ signal })) {
      items.push(item);
      update(() => ({ items: [...items], loading: false }));
    }
    update(() => ({ loading: false, done: true }));
  });
}

/**
 * Return the state of a channel: that of the reply, to which events are applied as they come. The
 * subscription ends with the component.
 *
 * @param subscribe Function that subscribes with the options that it is given: `(options) =>
 * api.boardWatch("plans", options)`.
 * @param deps Values that `subscribe` uses; when one changes, it subscribes anew.
 * @param apply Returns the state behind an event, as a new object.
 */
export function useChannel<T, E extends ReceivedEvent>(
  subscribe: (options: SubscribeOptions<any>) => Promise<Subscription<T, E>>,
  deps: DependencyList,
  apply: (state: T, event: E) => T,
): ChannelState<T> {
  const latest = useLatest(apply);
  const initial: ChannelState<T> = {
    data: undefined,
    error: undefined,
    loading: true,
    stale: false,
    reloading: false,
  };
  return useRunning(initial, deps, async (update, signal) => {
    let data: T;
    const show = (state: T) => {
      data = state;
      update(() => ({ data: state, loading: false }));
    };
    const onStatus = (status: SubscriptionStatus) => {
      const isShown = (state: ChannelState<T>) => !state.loading;
      update((state) => ({
        stale: isShown(state) && status !== "current",
        reloading: isShown(state) && status === "reloading",
      }));
    };
    const subscription = await subscribe({ signal, onReload: show, onStatus });
    show(subscription.reply);
    for await (const event of subscription) show(latest.current(data!, event));
  });
}

/** Return a reference to the value of the last rendering. */
function useLatest<T>(value: T): { readonly current: T } {
  const latest = useRef(value);
  useEffect(() => {
    latest.current = value;
  });
  return latest;
}

/** Return the state of something that runs as long as the component is there. */
function useRunning<S extends { readonly error: Error | undefined; readonly loading: boolean }>(
  initial: S,
  deps: DependencyList,
  run: (update: (change: (state: S) => Partial<S>) => void, signal: AbortSignal) => Promise<void>,
): S {
  const [shown, show] = useState(initial);
  useEffect(() => {
    const controller = new AbortController();
    let state = initial;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isWaiting = false;
    const update = (change: (state: S) => Partial<S>) => {
      if (controller.signal.aborted) return;
      state = { ...state, ...change(state) };
      if (timer !== undefined) {
        isWaiting = true; // for the end of the frame
        return;
      }
      show(state);
      timer = setTimeout(() => {
        timer = undefined;
        if (isWaiting) update(() => ({}));
        isWaiting = false;
      }, FRAME);
    };
    update(() => ({}));
    run(update, controller.signal).catch((error: Error) =>
      update(() => ({ error, loading: false }) as Partial<S>),
    );
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, deps);
  return shown;
}
