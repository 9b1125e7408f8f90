import { useEffect, useState, type DragEvent, type FormEvent } from "react";
import { useChannel, useCommand } from "websuckets/react";
import type { Api, NoteView } from "./api";
import { follow } from "./follow";

/** A board of notes, which others change at the same time. */
export function BoardPage({ api, name }: { api: Api; name: string }) {
  const created = useCreated(api, name);
  if (created instanceof Error) return <p role="alert">{created.message}</p>;
  return created ? <Notes api={api} board={name} /> : <p>Connecting…</p>;
}

/** Return true once the board exists, or the error for which it cannot be created. */
function useCreated(api: Api, name: string): boolean | Error {
  const [state, setState] = useState<boolean | Error>(false);
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    api.boardCreate(name, { signal, timeout: null }).then(
      () => setState(true),
      (error: Error) => signal.aborted || setState(error),
    );
    return () => controller.abort();
  }, [api, name]);
  return state;
}

function Notes({ api, board }: { api: Api; board: string }) {
  const { data, error, loading, stale } = useChannel(
    (options) => api.boardWatch(board, options),
    [board],
    follow,
  );
  const add = useCommand(api.noteAdd);
  const move = useCommand(api.noteMove);
  const remove = useCommand(api.noteRemove);
  const failed = error ?? add.error ?? move.error ?? remove.error;

  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = event.currentTarget;
    const text = String(new FormData(form).get("text"));
    const count = data?.notes.length ?? 0;
    form.reset();
    void add.run({ board, text, x: 20 + 30 * (count % 10), y: 20 + 40 * (count % 10) });
  }

  function drop(event: DragEvent, note: NoteView) {
    const place = event.currentTarget.parentElement!.getBoundingClientRect();
    const x = Math.max(0, Math.round(event.clientX - place.left));
    const y = Math.max(0, Math.round(event.clientY - place.top));
    void move.run({ board, id: note.id, x, y });
  }

  return (
    <>
      <form onSubmit={submit}>
        <input name="text" required maxLength={500} aria-label="Text of the note" />
        <button>Add</button>
      </form>
      {failed && <p role="alert">{failed.message}</p>}
      <ul className="notes" aria-busy={loading || stale}>
        {data?.notes.map((note) => (
          <li
            key={note.id}
            draggable
            style={{ left: note.x, top: note.y }}
            onDragEnd={(event) => drop(event, note)}
          >
            <span>{note.text}</span>{" "}
            <button
              aria-label={`Remove ${note.text}`}
              onClick={() => void remove.run({ board, id: note.id })}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}
