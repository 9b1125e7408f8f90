/**
 * Program that runs the clients of the chaos run of the repository, by this package: see
 * `tests/support/chaos_clients.py`, which describes the lines that it reads and writes.
 */

import { createInterface } from "node:readline";
import { ChaosClient, type Report } from "./chaos-client.ts";

/** The first line. */
interface Options {
  seed: string;
  ports: number[];
  clients: { name: string; token: string; boards: string[] }[];
}

/** Each line behind it. */
type Order =
  | { do: "start" | "kill"; clients: string[] }
  | { do: "stop working" }
  | { do: "tell" };

const counts: Record<string, number> = {};
const doomed: string[] = [];
const clients = new Map<string, ChaosClient>();
let isOver = false;

function write(line: unknown): void {
  if (!isOver) process.stdout.write(`${JSON.stringify(line)}\n`);
}

function create({ seed, ports, clients: all }: Options): void {
  for (const { name, token, boards } of all) {
    const report: Report = {
      record: (...record) => write([name, ...record]),
      count: (what) => (counts[what] = (counts[what] ?? 0) + 1),
      doom: (command) => doomed.push(command),
    };
    clients.set(name, new ChaosClient(name, token, ports, boards, `${seed}/${name}`, report));
  }
}

async function obey(order: Order): Promise<void> {
  switch (order.do) {
    case "start":
      await Promise.all(order.clients.map((name) => clients.get(name)!.start()));
      return;
    case "kill":
      await Promise.all(order.clients.map((name) => clients.get(name)!.kill()));
      return;
    case "stop working":
      for (const client of clients.values()) client.works = false;
      return;
    case "tell": {
      const told = [...clients.values()].map((client) => [client.name, client.state] as const);
      write({ counts, doomed, clients: Object.fromEntries(told) });
    }
  }
}

let hasOptions = false;
for await (const line of createInterface({ input: process.stdin })) {
  const read: unknown = JSON.parse(line);
  if (hasOptions) await obey(read as Order);
  else create(read as Options);
  hasOptions = true;
}
isOver = true; // ends of connections do not concern their streams any more
await Promise.all([...clients.values()].map((client) => client.kill()));
process.exit(0);
