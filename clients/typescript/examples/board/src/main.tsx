import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Client } from "websuckets";
import { Api } from "./api";
import { BoardPage } from "./board";

const parameters = new URLSearchParams(location.search);
const api = new Api(new Client(parameters.get("server") ?? "ws://localhost:9000"));

createRoot(document.querySelector("main")!).render(
  <StrictMode>
    <BoardPage api={api} name={parameters.get("board") ?? "plans"} />
  </StrictMode>,
);
