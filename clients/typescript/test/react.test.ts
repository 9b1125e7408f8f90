/** Hooks in React's strict mode, where the test plays the server. */

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { JSDOM } from "jsdom";
import { opened, settled, TestSocket } from "./support/sockets.ts";

const dom = new JSDOM("<main></main>");
Object.assign(globalThis, { window: dom.window, document: dom.window.document });
Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });

const { act, createElement, StrictMode } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useChannel, useCommand, useStream } = await import("websuckets/react");

beforeEach(() => (TestSocket.all = []));

/** Render a component in strict mode; return the text of the page, and its removal. */
async function rendered(component: () => string) {
  const root = createRoot(dom.window.document.querySelector("main")!);
  await act(async () => root.render(createElement(StrictMode, null, createElement(component))));
  return {
    text: () => dom.window.document.body.textContent,
    remove: () => act(async () => root.unmount()),
  };
}

/** Do something, and let the page show what comes of it. */
async function after(action: () => unknown): Promise<void> {
  await act(async () => {
    await action();
    await settled();
    await new Promise((resolve) => setTimeout(resolve, 40)); // longer than a frame
  });
}

const subscribed = (offset: number, recovered?: boolean) => ({
  c: { epoch: "e", offset, recovered },
});

test("a channel is loaded, follows its events, is stale without a connection, and reloads", async () => {
  const [client, socket] = await opened({ backoff: { random: () => 0 } });
  const page = await rendered(() => {
    const { data, loading, stale, reloading } = useChannel<number[], any>(
      (options) => client.subscribe("watch", 1, options),
      [],
      (numbers, event) => [...numbers, event.payload],
    );
    return [JSON.stringify(data), loading && "loading", stale && "stale", reloading && "reloading"]
      .filter(Boolean)
      .join(" ");
  });
  assert.equal(page.text(), "loading");
  const id = socket.sent.at(-1).id;
  await after(() => socket.say({ event: "watch", payload: [1], id, subscribed: subscribed(1) }));
  assert.equal(page.text(), "[1]");
  await after(async () => {
    for (let n = 2; n < 6; n++) {
      await socket.say({ event: "said", payload: n, channel: "c", offset: n });
    }
  });
  assert.equal(page.text(), "[1,2,3,4,5]");
  await after(() => socket.end(1012));
  assert.equal(page.text(), "[1,2,3,4,5] stale");
  const again = TestSocket.all.at(-1)!;
  assert.notEqual(again, socket);
  await after(() => again.open());
  assert.equal(page.text(), "[1,2,3,4,5] stale reloading");
  assert.deepEqual(again.sent.length, 1, "strict mode leaves one subscription");
  const reply = { event: "watch", payload: [9], id: again.sent[0].id };
  await after(() => again.say({ ...reply, subscribed: subscribed(9, false) }));
  assert.equal(page.text(), "[9]");
  await page.remove();
  await again.end(1012);
  await new Promise((resolve) => setTimeout(resolve, 10));
  await TestSocket.all.at(-1)!.open();
  assert.deepEqual(TestSocket.all.at(-1)!.sent, [], "a component that is removed is gone");
  await client.close();
});

test("a command tells that it runs, its reply, and its error", async () => {
  const [client, socket] = await opened();
  let run: () => Promise<unknown>;
  const page = await rendered(() => {
    const command = useCommand((payload: number) => client.call<number>("double", payload));
    run = () => command.run(2);
    return `${command.data} ${command.loading} ${command.error?.message}`;
  });
  assert.equal(page.text(), "undefined false undefined");
  let result: Promise<unknown>;
  await after(() => void (result = run()));
  assert.equal(page.text(), "undefined true undefined");
  await after(() => socket.say({ event: "double", payload: 4, id: socket.sent.at(-1).id }));
  assert.equal(page.text(), "4 false undefined");
  assert.equal(await result!, 4);
  await after(() => void run());
  await after(() => socket.say({ error: "odd", details: null, id: socket.sent.at(-1).id }));
  assert.equal(page.text(), "4 false odd");
  await page.remove();
  await client.close();
});

test("a stream gives its items, and is cancelled with its component", async () => {
  const [client, socket] = await opened();
  const page = await rendered(() => {
    const { items, loading, done } = useStream((options) => client.stream("count", 3, options), []);
    return `${items} ${loading} ${done}`;
  });
  assert.equal(page.text(), " true false");
  const begun = socket.sent.filter(({ event }) => event).map(({ id }) => id);
  const id = begun.at(-1);
  const cancelled = () => socket.sent.filter(({ cancel }) => cancel).map(({ cancel }) => cancel);
  assert.deepEqual(cancelled(), begun.slice(0, -1), "strict mode leaves one stream");
  await after(() => socket.say({ event: "count", payload: 1, id, more: true }));
  assert.equal(page.text(), "1 false false");
  await page.remove();
  assert.deepEqual(cancelled(), begun);
  await client.close();
});
