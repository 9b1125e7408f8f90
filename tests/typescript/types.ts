// Types of generated clients: each line below "@ts-expect-error" does not compile.

import { Client } from "websuckets";
import { outcome, unhandled } from "websuckets/generated";
import { Api as Awkward } from "./awkward.js";
import { Api, boardChannel, type NoteView } from "./board.js";

const client = new Client("ws://localhost:9000");
const api = new Api(client);
const awkward = new Awkward(client);

export async function commands(): Promise<NoteView> {
  const { noteAdd } = api; // functions may be passed on without the object
  await api.boardCreate("plans", { key: "k", timeout: 5_000 });
  // @ts-expect-error a wrong payload
  await api.boardCreate(5);
  // @ts-expect-error a field is missing
  await noteAdd({ board: "plans", text: "tea", x: 1 });
  // @ts-expect-error a wrong command
  await api.noteAdded({ board: "plans", text: "tea", x: 1, y: 2 });
  // @ts-expect-error the command takes no payload
  await awkward.class("x");
  // @ts-expect-error a command that does not take effect once has no key
  await awkward.importFrom({ class: 1 }, { key: "k" });
  // @ts-expect-error a reply is no text
  const wrong: string = await noteAdd({ board: "plans", text: "tea", x: 1, y: 2 });
  console.log(wrong);
  return noteAdd({ board: "plans", text: "tea", x: 1, y: 2 });
}

export async function channels(): Promise<void> {
  const board = await api.boardWatch("plans", {
    onReload: (state) => console.log(state.version),
    // @ts-expect-error a position is an epoch and an offset
    since: { [boardChannel({ name: "plans" })]: [1] },
  });
  // @ts-expect-error the parameter of the channel has a name
  boardChannel({ id: 5 });
  for await (const event of board) {
    switch (event.event) {
      case "note added":
        console.log(event.payload.note.text);
        break;
      case "note moved":
        // @ts-expect-error a moved note has no text
        console.log(event.payload.text);
        break;
      case "note removed":
        break;
      default:
        unhandled(event);
    }
  }
  api.on("note moved", ({ x, y }) => x + y);
  // @ts-expect-error the app has no such event
  api.on("note painted", () => {});
}

export async function errors(): Promise<void> {
  const money = { amount: "1.50" };
  const done = await outcome(awkward.aBCOnce(money, { key: "k" }));
  if (done.ok) return;
  const { error } = done;
  switch (error.error) {
    case "lambda":
      break;
    case "with details: 1/2":
      console.log(error.details?.items);
      break;
    default:
      unhandled(error);
  }
  switch (error.error) {
    case "lambda":
      break;
    default:
      // @ts-expect-error an error is not handled
      unhandled(error);
  }
}
