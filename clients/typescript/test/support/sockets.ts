/** WebSockets that are connected to a test, which plays the server. */

import { Client, type ClientOptions } from "websuckets";

/** A WebSocket whose other side is the test. */
export class TestSocket {
  static all: TestSocket[] = [];
  onopen: ((event: unknown) => void) | null = null;
  onmessage: ((event: unknown) => void) | null = null;
  onclose: ((event: unknown) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  readonly url: string;
  readonly sent: any[] = [];
  closedWith: number | undefined;

  constructor(url: string) {
    this.url = url;
    TestSocket.all.push(this);
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(code?: number): void {
    this.closedWith ??= code;
    if (code !== undefined) queueMicrotask(() => this.end(code));
  }

  /** Let the opening handshake succeed. */
  async open(): Promise<void> {
    this.onopen?.({});
    await settled();
  }

  /** Let the client receive a frame. */
  async say(frame: unknown): Promise<void> {
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    await settled();
  }

  /** Close the connection by the server. */
  async end(code: number): Promise<void> {
    this.onclose?.({ code, reason: "" });
    await settled();
  }
}

/** Let everything run that waits for nothing else. */
export async function settled(): Promise<void> {
  for (let n = 0; n < 20; n++) await Promise.resolve();
}

/** Return a client, and its first connection. */
export function connecting(options: ClientOptions = {}): [Client, TestSocket] {
  const client = new Client("ws://test/", { WebSocket: TestSocket, heartbeat: null, ...options });
  return [client, TestSocket.all.at(-1)!];
}

/** Return a client that is open, and its connection. */
export async function opened(options: ClientOptions = {}): Promise<[Client, TestSocket]> {
  const [client, socket] = connecting(options);
  await socket.open();
  return [client, socket];
}

/** Return the newest connection. */
export function newest(): TestSocket {
  return TestSocket.all.at(-1)!;
}
