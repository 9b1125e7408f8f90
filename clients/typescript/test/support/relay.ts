/** Relay: a port of loopback in front of others, whose connections can be reset at any time. */

import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

/**
 * A TCP relay, by which a client is cut off without a closing handshake.
 *
 * A `WebSocket` of Node says goodbye to its server whenever its program ends it, so the relay
 * between them ends first. It passes on each end of a connection as it was: with FIN, or with RST.
 */
export class Relay {
  #server: Server;
  #sockets = new Set<Socket>();

  private constructor(server: Server, choosePort: () => number) {
    this.#server = server;
    server.on("connection", (near: Socket) => {
      const far = connect({ port: choosePort(), host: "127.0.0.1", allowHalfOpen: true });
      this.#join(near, far);
      this.#join(far, near);
    });
  }

  /** Return a relay to a port that is chosen for each connection, once it listens. */
  static async listening(choosePort: () => number): Promise<Relay> {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    const relay = new Relay(server, choosePort);
    const listens = Promise.withResolvers<void>();
    server.once("error", listens.reject);
    server.listen(0, "127.0.0.1", listens.resolve);
    await listens.promise;
    return relay;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Reset all connections, on both sides, and accept no more. */
  end(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  #join(from: Socket, to: Socket): void {
    this.#sockets.add(from);
    from.setNoDelay();
    from.pipe(to);
    from.on("error", () => to.resetAndDestroy());
    from.on("close", () => {
      this.#sockets.delete(from);
      if (!from.readableEnded) to.resetAndDestroy();
    });
  }
}
