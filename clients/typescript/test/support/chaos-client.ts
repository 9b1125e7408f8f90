/** Clients of the chaos run, which do what `tests/support/chaos_websuckets_client.py` does. */

import { createHash, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Client,
  ClientClosed,
  CommandError,
  ConnectionLost,
  TimeoutError,
  type ReceivedEvent,
  type Subscription,
} from "websuckets";
import { Relay } from "./relay.ts";

/** Errors after which a client may send the same command again, with its key. */
const AGAIN = ["in progress", "rate limited", "unavailable", "timeout", "internal error"];

/** Times that a command which always fails is sent. */
const DOOMED_TRIES = 3;

/** Commands of one client that wait for a reply, at most. */
const MOST_WAITING = 3;

const ITEMS = 8;

type At = readonly [epoch: string, offset: number];
type Value = readonly [value: number, version: number];
type Board = Record<string, Value>;

/** Payload of an event, and of the reply to a command that changes an item. */
interface Changed {
  effect: number;
  command: string;
  item: string;
  value: number;
  version: number;
}

type Watching = Subscription<Board, ReceivedEvent<string, Changed>>;

/** Record for the oracle: the name of its class in `chaos_history.py`, and its fields. */
export type ChaosRecord =
  | ["Subscribed", channel: string, at: At, recovered: boolean | null, since: At | null]
  | ["Seen", channel: string, offset: number, effect: number, command: string]
  | ["Left"]
  | ["Acknowledged", command: string, effect: number];

/** Functions that are told what a client has seen and done. */
export interface Report {
  record(...record: ChaosRecord): void;
  count(what: string): void;
  /** Take note of a command whose transaction is always rolled back. */
  doom(command: string): void;
}

/** Random numbers, which follow from a seed alone. */
class Choices {
  #seed: string;
  #drawn = 0;

  constructor(seed: string) {
    this.#seed = seed;
  }

  /** Return a number from 0 to 1. */
  random = (): number => {
    const hash = createHash("sha256").update(`${this.#seed} ${this.#drawn++}`).digest();
    return hash.readUInt32BE() / 2 ** 32;
  };

  between(least: number, most: number): number {
    return least + (most - least) * this.random();
  }

  below(end: number): number {
    return Math.floor(end * this.random());
  }

  of<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

/** Command that has not been acknowledged yet, as a client keeps it on its disk. */
class Command {
  readonly key = randomBytes(16).toString("hex");
  readonly payload: { command: string; board: string; item: string; amount: number; doom: Doom };
  sent = 0;

  constructor(payload: Command["payload"]) {
    this.payload = payload;
  }
}

type Doom = "raise" | "commit" | null;

/** State of one board, as a client shows it. */
class Screen {
  items: Board = {};
  at: At | null = null;
  isWatched = false;

  load(items: Board, at: At): void {
    this.items = { ...items };
    this.at = at;
    this.isWatched = true;
  }

  change(offset: number, { item, value, version }: Changed): void {
    const shown = this.items[item];
    if (!shown || shown[1] < version) this.items[item] = [value, version];
    this.at = [this.at![0], Math.max(offset, this.at![1])];
  }
}

/** A client, for as long as its user works: through kills, and over many connections. */
export class ChaosClient {
  readonly name: string;
  /** True while the client makes new commands. */
  works = true;
  #token: string;
  #ports: readonly number[];
  #boards: readonly string[];
  #choices: Choices;
  #report: Report;
  #commands = new Map<string, Command>();
  #number = 0;
  #screens = new Map<string, Screen>();
  #faults: string[] = [];
  #client: Client | undefined;
  #relay: Relay | undefined;
  #killed = new AbortController();
  #tasks = new Set<Promise<void>>();

  /** @param ports Those of the links to all nodes. */
  constructor(
    name: string,
    token: string,
    ports: readonly number[],
    boards: readonly string[],
    seed: string,
    report: Report,
  ) {
    this.name = name;
    this.#token = token;
    this.#ports = ports;
    this.#boards = boards;
    this.#choices = new Choices(seed);
    this.#report = report;
  }

  /** What the harness judges while the run ends; a board is at `null` that is not watched now. */
  get state(): unknown {
    const screens = [...this.#screens];
    const at = screens.map(([board, { isWatched, at }]) => [board, isWatched ? at : null] as const);
    return {
      waiting: this.#commands.size,
      positions: Object.fromEntries(at),
      screens: Object.fromEntries(screens.map(([board, { items }]) => [board, items])),
      faults: this.#faults,
    };
  }

  /** Begin with an empty screen, and with the commands that were kept. */
  async start(): Promise<void> {
    this.#killed = new AbortController();
    this.#screens = new Map(this.#boards.map((board) => [board, new Screen()]));
    const relay = (this.#relay = await Relay.listening(() => this.#choices.of(this.#ports)));
    const client = (this.#client = new Client(relay.url, {
      token: this.#token,
      authenticate: async ({ call }) => {
        await call("enter", { name: this.name, token: this.#token });
      },
      timeout: 12_000, // longer than that of a command on the server
      heartbeat: 3_000,
      backoff: { first: 100, most: 2_000, later: 1_000, random: this.#choices.random },
      openTimeout: 3_000,
      closeTimeout: 1_000,
    }));
    client.onState((state) => state === "open" && this.#report.count("connections"));
    for (const board of this.#boards) this.#spawn(this.#watch(client, board));
    for (const command of this.#commands.values()) this.#spawn(this.#change(client, command));
    this.#spawn(this.#work(client));
  }

  /** End at once, without a word to the server. */
  async kill(): Promise<void> {
    this.#killed.abort();
    this.#relay?.end();
    await this.#client?.close();
    await Promise.all(this.#tasks);
    this.#report.record("Left");
  }

  /** Let a task run until the client is killed; its error is one without a reason. */
  #spawn(task: Promise<void>): void {
    const { signal } = this.#killed;
    const ended = task
      .catch((error: unknown) => {
        if (!signal.aborted) this.#faults.push(`${this.name}: ${error}`);
      })
      .finally(() => this.#tasks.delete(ended));
    this.#tasks.add(ended);
  }

  #sleep(seconds: number): Promise<void> {
    return sleep(1000 * seconds, undefined, { signal: this.#killed.signal });
  }

  /** Show a board, for as long as the client lives. */
  async #watch(client: Client, board: string): Promise<void> {
    const screen = this.#screens.get(board)!;
    while (true) {
      try {
        const subscription: Watching = await client.subscribe("watch", board, {
          onReload: () => {
            this.#report.count("reloaded");
            this.#load(screen, board, subscription, false);
          },
        });
        this.#load(screen, board, subscription, null);
        for await (const { channel, offset, payload } of subscription) {
          this.#report.count("events");
          this.#report.record("Seen", channel!, offset!, payload.effect, payload.command);
          screen.change(offset!, payload);
        }
      } catch (error) {
        screen.isWatched = false;
        const isRefused = error instanceof CommandError;
        if (!isRefused && !(error instanceof TimeoutError)) throw error;
        if (isRefused && !AGAIN.includes(error.error)) throw error;
        this.#report.count(`watch: ${isRefused ? error.error : error.name}`);
        await this.#sleep(0.3 * this.#choices.between(0.7, 1.3));
      }
    }
  }

  #load(screen: Screen, board: string, { reply, positions }: Watching, recovered: false | null) {
    const at = positions[board]!;
    this.#report.record("Subscribed", board, at, recovered, recovered === null ? null : screen.at);
    screen.load(reply, at);
  }

  /** Make a command after each pause to think, as long as few wait for their replies. */
  async #work(client: Client): Promise<void> {
    while (true) {
      await this.#sleep(this.#choices.between(0.4, 1.4));
      if (this.works && this.#commands.size < MOST_WAITING) {
        this.#spawn(this.#change(client, this.#newCommand()));
      }
    }
  }

  #newCommand(): Command {
    const name = `${this.name}.${++this.#number}`;
    const chance = this.#choices.random();
    const doom: Doom = chance < 0.9 ? null : chance < 0.97 ? "raise" : "commit";
    const command = new Command({
      command: name,
      board: this.#choices.of(this.#boards),
      item: `item ${this.#choices.below(ITEMS)}`,
      amount: 1 + this.#choices.below(9),
      doom,
    });
    if (doom !== null) this.#report.doom(name);
    this.#commands.set(name, command);
    this.#report.count("commands");
    return command;
  }

  /** Call a command until it is answered for good; sometimes twice at once. */
  async #change(client: Client, command: Command): Promise<void> {
    const { command: name, doom } = command.payload;
    while (true) {
      if (command.sent++) this.#report.count("called again");
      const isTwin = this.#choices.random() < 0.03;
      if (isTwin) this.#report.count("twins");
      const calls = Array.from({ length: isTwin ? 2 : 1 }, () => this.#call(client, command));
      const refused = (await Promise.allSettled(calls)).find((each) => each.status === "rejected");
      if (!refused) return this.#end(name, "acknowledged");
      const error: unknown = refused.reason;
      const isError = error instanceof CommandError;
      if (error instanceof ClientClosed) throw error;
      if (!isError && !(error instanceof TimeoutError) && !(error instanceof ConnectionLost)) {
        throw error;
      }
      const reason = isError ? error.error : error.name;
      if (reason === "doomed" || (doom !== null && command.sent >= DOOMED_TRIES)) {
        return this.#end(name, "rolled back");
      }
      if (isError && !AGAIN.includes(reason)) throw new Error(`${name}: ${reason}`);
      this.#report.count(`change: ${reason}`);
      await this.#sleep(0.3 * this.#choices.between(0.7, 1.3));
    }
  }

  async #call(client: Client, { key, payload }: Command): Promise<void> {
    const { effect } = await client.call<Changed>("change", payload, { key });
    this.#report.record("Acknowledged", payload.command, effect);
  }

  #end(name: string, how: "acknowledged" | "rolled back"): void {
    if (this.#commands.delete(name)) this.#report.count(how);
  }
}
