/** Behaviour of the client where the test plays the server, and tells the time. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test, type TestContext } from "node:test";
import {
  ClientClosed,
  CommandError,
  ConnectionLost,
  QueueFull,
  SlowReader,
  TimeoutError,
  UserChanged,
} from "websuckets";
import { channelName, declaring, outcome } from "websuckets/generated";
import { connecting, newest, opened, settled, TestSocket } from "./support/sockets.ts";

beforeEach(() => {
  TestSocket.all = [];
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
});
afterEach(() => mock.timers.reset());

async function pass(time: number): Promise<void> {
  mock.timers.tick(time);
  await settled();
}

test("a call sends its payload as it was, and returns that of the reply", async () => {
  const [client, socket] = await opened({ token: "t" });
  const payload = { numbers: [1, 2] };
  const call = client.call("add", payload);
  payload.numbers.push(3);
  assert.deepEqual(socket.sent, [{ event: "add", payload: { numbers: [1, 2] }, id: 1, token: "t" }]);
  await socket.say({ event: "add", payload: 3, id: 1 });
  assert.equal(await call, 3);
});

test("errors have the class that the program gives to their names", async () => {
  class Taken extends CommandError {}
  const [client, socket] = await opened({ errors: { taken: Taken as never } });
  const calls = [client.call("a"), client.call("b")];
  await socket.say({ error: "taken", details: { retry_after: 2 }, id: 1 });
  await socket.say({ error: "constructor", details: null, id: 2 });
  await assert.rejects(calls[0]!, (error) => error instanceof Taken && error.retryAfter === 2000);
  await assert.rejects(calls[1]!, (error: Error) => error.name === "CommandError");
});

test("a signal ends a call that waits, and one that is sent, with its reason", async () => {
  const [client, socket] = connecting();
  const controller = new AbortController();
  const waiting = client.call("a", 1, { signal: controller.signal });
  const reason = new Error("left");
  controller.abort(reason);
  await assert.rejects(waiting, (error) => error === reason);
  await assert.rejects(client.call("b", 1, { signal: controller.signal }), (e) => e === reason);
  await socket.open();
  assert.deepEqual(socket.sent, []);
});

test("times count from the call, and null, Infinity and long ones are no limit of zero", async () => {
  const [client] = await opened();
  const limited = client.call("a", null, { timeout: 50 });
  const others = [null, Infinity, 2 ** 40].map((timeout) => client.call("a", null, { timeout }));
  let ended = 0;
  for (const call of others) call.catch(() => ended++);
  limited.catch(() => {});
  await pass(50);
  await assert.rejects(limited, TimeoutError);
  assert.equal(ended, 0);
});

test("a queue that is full refuses further commands", async () => {
  const [client] = connecting({ queue: 1 });
  client.call("a").catch(() => {});
  await assert.rejects(client.call("b"), QueueFull);
});

test("commands with a key are sent again in their order, others fail", async () => {
  const [client, socket] = await opened({ backoff: { random: () => 0.5 } });
  const lost = client.call("a");
  client.call("b", 1, { key: "k" }).catch(() => {});
  await socket.end(1006);
  await assert.rejects(lost, ConnectionLost);
  assert.equal(client.state, "waiting");
  assert.deepEqual(client.lost, { code: 1006, reason: "" });
  client.call("c").catch(() => {});
  await pass(250);
  await newest().open();
  assert.deepEqual(
    newest().sent.map(({ event, key }) => [event, key]),
    [["b", "k"], ["c", undefined]],
  );
});

test("pauses double up to a limit, and begin anew after a stable connection", async () => {
  const [client, socket] = await opened({ backoff: { random: () => 1, most: 1500 } });
  await socket.end(1006);
  for (const pause of [500, 1000, 1500, 1500]) {
    const before = TestSocket.all.length;
    await pass(pause - 1);
    assert.equal(TestSocket.all.length, before);
    await pass(1);
    assert.equal(TestSocket.all.length, before + 1);
    await newest().end(1006);
  }
  await client.close();
  assert.equal(client.state, "closed");
});

test("close codes decide whether the client connects again", async () => {
  for (const [code, state] of [[1000, "closed"], [1008, "closed"], [1012, "waiting"], [4401, "closed"]]) {
    const [client, socket] = await opened();
    await socket.end(code as number);
    assert.equal(client.state, state, String(code));
    await client.close();
  }
  const [client, socket] = await opened({ closeCodes: { 1000: "at once" } });
  await socket.end(1000);
  await pass(0);
  assert.equal(client.state, "connecting");
});

test("a closed client fails everything, and connects no more", async () => {
  const [client, socket] = await opened();
  const calls = [client.call("a"), client.call("b", 1, { key: "k" })].map((call) =>
    assert.rejects(call, ClientClosed),
  );
  const events = client.events("e");
  const next = events.next();
  await client.close();
  assert.equal(socket.closedWith, 1000);
  await Promise.all(calls);
  assert.equal((await next).done, true);
  await assert.rejects(client.call("c"), ClientClosed);
  await pass(100_000);
  assert.equal(TestSocket.all.length, 1);
});

test("a heartbeat finds a dead connection, unless a command may keep the pong waiting", async () => {
  const [client, socket] = await opened({ heartbeat: 100, timeout: 1000 });
  await pass(100);
  await pass(100);
  assert.deepEqual(socket.sent, [{ ping: 1 }]);
  assert.equal(client.state, "waiting");
  const [other, slow] = await opened({ heartbeat: 100, timeout: 1000 });
  const call = other.call("slow");
  const failed = assert.rejects(call, TimeoutError);
  for (let n = 0; n < 9; n++) await pass(100);
  assert.equal(other.state, "open");
  await pass(100);
  await failed;
  await pass(200);
  assert.equal(other.state, "waiting");
  assert.ok(slow.sent.length > 2);
});

test("a command that subscribes keeps the pong waiting for no longer than a call", async () => {
  const [client, socket] = await opened({ heartbeat: 100, timeout: 1000 });
  const subscribing = client.subscribe("watch");
  const id = socket.sent[0].id;
  await socket.say({ event: "watch", id, subscribed: { a: { epoch: "e", offset: 1 } } });
  await subscribing;
  await socket.say({ event: "changed", channel: "a", offset: 3 }); // so the client asks again
  for (let n = 0; n < 10; n++) await pass(100);
  assert.equal(client.state, "open");
  await pass(200);
  assert.equal(client.state, "waiting");
});

test("a command that is sent after a ping does not keep its pong waiting", async () => {
  const [client] = await opened({ heartbeat: 100, timeout: 1000 });
  const first = assert.rejects(client.call("a"), TimeoutError);
  for (let n = 0; n < 10; n++) await pass(100);
  await first;
  const again = assert.rejects(client.call("a"), ConnectionLost);
  await pass(100);
  assert.equal(client.state, "waiting");
  await again;
});

test("a subscription that was given up keeps no pong waiting", async () => {
  const [client] = await opened({ heartbeat: 100, timeout: 100_000 });
  const failed = assert.rejects(client.subscribe("watch", 1, { timeout: 1000 }), TimeoutError);
  for (let n = 0; n < 10; n++) await pass(100);
  await failed;
  await pass(200);
  assert.equal(client.state, "waiting");
});

test("timers that stood still make the client ask for an answer at once", async () => {
  const [client, socket] = await opened({ heartbeat: 20_000 });
  mock.timers.setTime(Date.now() + 3_600_000); // timers stand still meanwhile
  await pass(20_000);
  assert.deepEqual(socket.sent.at(-1), { ping: socket.sent.length });
  await pass(5_000);
  assert.equal(client.state, "waiting");
});

/** Return a page that lasts as long as the test; its events are those of the network. */
function page(context: TestContext): EventTarget {
  const page = new EventTarget();
  Object.assign(globalThis, { addEventListener: page.addEventListener.bind(page) });
  context.after(() => Reflect.deleteProperty(globalThis, "addEventListener"));
  return page;
}

test("a network that comes back during an attempt ends the pause if the attempt fails", async (context) => {
  const network = page(context);
  const [client, socket] = connecting({ backoff: { random: () => 1 } });
  network.dispatchEvent(new Event("online"));
  await socket.end(1006);
  assert.equal(client.state, "connecting");
  await newest().end(1006);
  assert.equal(client.state, "waiting");
  await client.close();
});

test("a network that came back before the connection was lost ends no pause", async (context) => {
  const network = page(context);
  const [client, socket] = connecting({ backoff: { random: () => 1 } });
  network.dispatchEvent(new Event("online"));
  await socket.open();
  network.dispatchEvent(new Event("online"));
  await socket.end(1006);
  assert.equal(client.state, "waiting");
  await client.close();
});

test("an answer at a wake-up counts also where a heartbeat follows it", async (context) => {
  const network = page(context);
  const [client, socket] = await opened({ heartbeat: 20_000 });
  await pass(19_000);
  network.dispatchEvent(new Event("online"));
  assert.deepEqual(socket.sent, [{ ping: 1 }]);
  await socket.say({ pong: 1 });
  await pass(1_000);
  await pass(4_000);
  assert.equal(client.state, "open");
});

test("commands of another user are dropped", async () => {
  const [client, socket] = await opened();
  client.user = "ann";
  const sent = assert.rejects(client.call("a", 1, { key: "k" }), UserChanged);
  await socket.end(1006);
  const waiting = assert.rejects(client.call("b"), UserChanged);
  client.user = "bob";
  await Promise.all([sent, waiting]);
});

test("authenticate runs before all else, and a refusal closes the client", async () => {
  const [client, socket] = connecting({
    authenticate: async (connection) => ({ token: await connection.call<string>("log in") }),
  });
  const call = client.call("a");
  await socket.open();
  assert.deepEqual(socket.sent.map(({ event }) => event), ["log in"]);
  await socket.say({ event: "log in", payload: "t", id: socket.sent[0].id });
  assert.deepEqual(socket.sent[1], { event: "a", id: 1, token: "t" });
  await socket.say({ event: "a", payload: null, id: 1 });
  assert.equal(await call, null);

  const [refused, other] = connecting({ authenticate: (connection) => connection.call("log in") });
  const lost = assert.rejects(refused.call("a"), ClientClosed);
  await other.open();
  await other.say({ error: "wrong password", details: null, id: other.sent[0].id });
  await lost;
  assert.equal(refused.state, "closed");
});

test("leaving a stream cancels it, also by a signal and while an item is awaited", async () => {
  const [client, socket] = await opened();
  const stream = client.stream("count");
  const next = stream.next();
  await socket.say({ event: "count", payload: 1, id: 1, more: true });
  assert.deepEqual(await next, { done: false, value: 1 });
  const waits = stream.next();
  await stream.return();
  assert.equal((await waits).done, true);
  const controller = new AbortController();
  const other = client.stream("count", 1, { signal: controller.signal }).next();
  controller.abort(new Error("left"));
  await assert.rejects(other, /left/);
  assert.deepEqual(socket.sent.filter(({ cancel }) => cancel), [{ cancel: 1 }, { cancel: 2 }]);
});

test("a stream whose reader is too slow is cancelled", async () => {
  const [client, socket] = await opened({ buffer: 1 });
  const stream = client.stream("count");
  for (let n = 0; n < 11; n++) await socket.say({ event: "count", payload: n, id: 1, more: true });
  assert.deepEqual(socket.sent.at(-1), { cancel: 1 });
  const items: unknown[] = [];
  await assert.rejects(stream.forEach((item) => items.push(item)), SlowReader);
  assert.equal(items.length, 10);
});

test("events come to functions and iterations until these are removed", async () => {
  const [client, socket] = await opened();
  const heard: unknown[] = [];
  const remove = client.on("e", (payload) => heard.push(payload));
  const events = client.events<number>("e");
  await socket.say({ event: "e", payload: 1 });
  remove();
  await socket.say({ event: "e", payload: 2 });
  assert.deepEqual(heard, [1]);
  assert.deepEqual([(await events.next()).value, (await events.next()).value], [1, 2]);
  events.close();
  assert.equal((await events.next()).done, true);
});

test("a subscription that is closed takes its events along, and is not renewed", async () => {
  const [client, socket] = await opened();
  const heard: unknown[] = [];
  client.on("said", (payload) => heard.push(payload));
  const subscribing = client.subscribe("watch");
  const subscribed = { c: { epoch: "e", offset: 1 } };
  await socket.say({ event: "watch", payload: "state", id: 1, subscribed });
  const subscription = await subscribing;
  await socket.say({ event: "said", payload: 1, channel: "c", offset: 2 });
  await socket.say({ event: "said", payload: 1, channel: "c", offset: 2 });
  assert.equal((await subscription.next()).value!.payload, 1);
  assert.deepEqual(subscription.positions, { c: ["e", 2] });
  const waits = subscription.next();
  subscription.close();
  assert.equal((await waits).done, true);
  await socket.say({ event: "said", payload: 2, channel: "c", offset: 3 });
  assert.deepEqual(heard, []);
  await socket.end(1012);
  await pass(500);
  await newest().open();
  assert.deepEqual(newest().sent, []);
});

test("a missing offset makes a subscription ask again, from its last position", async () => {
  const [client, socket] = await opened();
  const statuses: string[] = [];
  const subscribing = client.subscribe("watch", 1, { onStatus: (status) => statuses.push(status) });
  const subscribed = { c: { epoch: "e", offset: 1 } };
  await socket.say({ event: "watch", payload: "state", id: 1, subscribed });
  await subscribing;
  await socket.say({ event: "said", payload: 1, channel: "c", offset: 3 });
  assert.deepEqual(socket.sent[1], { event: "watch", payload: 1, id: 2, since: { c: ["e", 1] } });
  assert.deepEqual(statuses, ["reloading", "current", "reloading"]);
});

test("an outcome has the declared errors, and throws all others", async () => {
  const taken = new CommandError("taken", null);
  const reply = () => declaring<number, CommandError<"taken">>(Promise.reject(taken), "taken");
  assert.deepEqual(await outcome(reply()), { ok: false, error: taken });
  assert.deepEqual(await outcome(declaring(Promise.resolve(1))), { ok: true, value: 1 });
  const lost = Promise.reject(new ConnectionLost());
  await assert.rejects(outcome(declaring(lost)), ConnectionLost);
});

test("parameters of channels are neither empty nor have a slash", () => {
  assert.equal(channelName("room/{id}/{name}", { id: 5, name: "a" }), "room/5/a");
  assert.throws(() => channelName("room/{id}", { id: "" }), RangeError);
  assert.throws(() => channelName("room/{id}", { id: "a/b" }), RangeError);
});
