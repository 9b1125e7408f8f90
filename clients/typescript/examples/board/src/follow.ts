import { unhandled } from "websuckets/generated";
import type { BoardChannelEvent, BoardView } from "./api";

/** Return the board behind an event, which may come a second time: then its version is known. */
export function follow(board: BoardView, event: BoardChannelEvent): BoardView {
  const { version } = event.payload;
  if (version <= board.version) return board;
  switch (event.event) {
    case "note added":
      return { version, notes: [...board.notes, event.payload.note] };
    case "note moved": {
      const { id, x, y } = event.payload;
      return { version, notes: board.notes.map((n) => (n.id === id ? { ...n, x, y } : n)) };
    }
    case "note removed":
      return { version, notes: board.notes.filter((n) => n.id !== event.payload.id) };
    default:
      return unhandled(event);
  }
}
