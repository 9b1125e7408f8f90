/**
 * Interpreter of the scenarios of clients, `tests/client/scenarios.json` of the repository: see
 * `tests/support/client_scenarios.py`, which describes the steps.
 *
 * It runs in Node and in browsers. What belongs to the server, to the link and to the test itself
 * is asked for by HTTP.
 */

import {
  Client,
  CommandError,
  type Caller,
  type ClientOptions,
  type State,
  type Stream,
  type Subscription,
} from "websuckets";

export type Step = Record<string, any>;
type Outcome = [kind: string, value: unknown];

interface Subscribed {
  subscription: Subscription;
  reloads: unknown[];
}

/** Times of the scenarios are in seconds. */
const SECOND = 1000;

/** Take all steps. Rejected where one has another outcome than it says. */
export async function run(steps: readonly Step[], url: string, control: string): Promise<void> {
  const scenario = new Scenario(url, control);
  try {
    for (const [n, step] of steps.entries()) {
      try {
        await within(scenario.take(step));
      } catch (error) {
        throw new Error(`in step ${n + 1}, ${JSON.stringify(step)}: ${error}`, { cause: error });
      }
    }
  } finally {
    await scenario.end();
  }
}

function within<T>(promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("nothing happens")), 20 * SECOND);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

class Scenario {
  #url: string;
  #control: string;
  #client: Client | undefined;
  #states: State[] = [];
  #changed = Promise.withResolvers<void>();
  #begun = new Map<string, Promise<Outcome>>();
  #subscribed = new Map<string, Subscribed>();
  #heard = new Map<string, unknown[]>();
  #name = "";

  constructor(url: string, control: string) {
    this.#url = url;
    this.#control = control;
  }

  async end(): Promise<void> {
    await this.#client?.close();
  }

  async take(step: Step): Promise<void> {
    const [verb] = Object.keys(step);
    const value = step[verb!];
    const client = this.#client!;
    switch (verb) {
      case "connect":
        return this.#connect(value);
      case "state":
        await this.#until(() => this.#states.includes(value));
        this.#states.splice(0, this.#states.indexOf(value) + 1);
        return;
      case "token":
        client.token = value;
        return;
      case "authenticate":
        this.#name = value;
        return;
      case "renew":
        return client.renew();
      case "close":
        return client.close();
      case "server":
      case "link":
        await this.#ask({ [verb]: value });
        return;
      case "control": {
        const reply = await this.#ask({ control: value, payload: step.payload });
        if ("reply" in step) expect(reply, step.reply);
        return;
      }
      case "call":
        return expect(await outcome(this.#call(value, step)), expected(step));
      case "begin": {
        const ready = Promise.withResolvers<void>();
        const task = "stream" in step ? this.#stream(step, ready.resolve) : this.#call(step.call, step);
        this.#begun.set(value, outcome(task));
        if ("stream" in step) await ready.promise;
        return;
      }
      case "end":
        return expect(await this.#begun.get(value), expected(step));
      case "stream":
        return expect(
          await outcome(this.#stream(step, () => {})),
          "error" in step ? ["error", step.error] : ["reply", undefined],
        );
      case "subscribe":
        return this.#subscribe(value, step);
      case "events":
        return this.#events(value, step.are);
      case "reloads":
        return expect(this.#subscribed.get(value)!.reloads, step.are);
      case "await reply":
        // Commands of one connection are answered in their order, and it is sent before these.
        return expect(await client.call("add", [1]), 1);
      case "on": {
        const heard: unknown[] = [];
        this.#heard.set(value, heard);
        client.on(value, (payload) => {
          heard.push(payload);
          this.#wake();
        });
        return;
      }
      case "heard":
        await this.#until(() => this.#heard.get(value)!.length >= step.are.length);
        return expect(this.#heard.get(value), step.are);
    }
    throw new Error(`unknown step ${verb}`);
  }

  #connect(options: Step): void {
    const { authenticate, heartbeat, later = 0.05, ...same } = options;
    const all: ClientOptions = {
      ...same,
      backoff: { first: 20, most: 100, later: later * SECOND },
      closeTimeout: SECOND,
    };
    if (heartbeat !== undefined) all.heartbeat = heartbeat * SECOND;
    if (authenticate !== undefined) {
      this.#name = authenticate;
      all.authenticate = (connection) => this.#logIn(connection);
    }
    this.#client = new Client(this.#url, all);
    this.#states = [this.#client.state];
    this.#client.onState((state) => {
      this.#states.push(state);
      this.#wake();
    });
  }

  async #logIn(connection: Caller) {
    const user = this.#name;
    return { token: await connection.call<string>("log in", user), user };
  }

  #call(event: string, step: Step): Promise<unknown> {
    const { key, once, timeout } = step;
    const options = timeout === undefined ? {} : { timeout: timeout * SECOND };
    return this.#client!.call(event, step.payload, { key, once, ...options });
  }

  async #stream(step: Step, ready: () => void): Promise<void> {
    const items = [...step.items];
    const stream: Stream = this.#client!.stream(step.stream, step.payload);
    for await (const item of stream) {
      if (items.length) expect(item, items.shift());
      if (!items.length) {
        ready();
        if (step.leave) return;
      }
    }
    expect(items, []);
  }

  async #subscribe(name: string, step: Step): Promise<void> {
    const reloads: unknown[] = [];
    const subscription = await this.#client!.subscribe(step.command, step.payload, {
      events: step.events,
      onReload: (reply) => reloads.push(reply),
    });
    this.#subscribed.set(name, { subscription, reloads });
    expect(subscription.reply, step.reply);
  }

  async #events(name: string, numbers: unknown[]): Promise<void> {
    const { subscription } = this.#subscribed.get(name)!;
    const found: unknown[] = [];
    while (found.length < numbers.length) {
      const { value } = await subscription.next();
      const payload = value!.payload as any;
      found.push(typeof payload === "object" ? payload.number : payload);
    }
    expect(found, numbers);
  }

  async #ask(request: Step): Promise<unknown> {
    const body = JSON.stringify(request);
    const response = await fetch(this.#control, { method: "POST", body });
    if (!response.ok) throw new Error(`${body}: ${await response.text()}`);
    return response.json();
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#changed.promise;
  }
}

async function outcome(promise: Promise<unknown>): Promise<Outcome> {
  try {
    return ["reply", await promise];
  } catch (error) {
    if (error instanceof CommandError) return ["error", error.error];
    return ["fails", (error as Error).name === "Error" ? String(error) : (error as Error).name];
  }
}

function expected(step: Step): Outcome {
  const kind = ["reply", "error", "fails"].find((name) => name in step)!;
  return [kind, step[kind]];
}

function expect(found: unknown, wanted: unknown): void {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`expected ${JSON.stringify(wanted)}, found ${JSON.stringify(found)}`);
  }
}
