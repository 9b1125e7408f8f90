// Reads documents from standard input, by name, and writes the diagnostics of each.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const documents = JSON.parse(readFileSync(0, "utf8"));
const found = {};
for (const [name, text] of Object.entries(documents)) {
  const { document, diagnostics } = await new Parser().parse(text);
  found[name] = {
    operations: document ? document.operations().all().map((operation) => operation.id()) : null,
    diagnostics: diagnostics.map(({ severity, code, message, path }) => ({
      severity,
      code,
      message,
      path: path.join("/"),
    })),
  };
}
process.stdout.write(JSON.stringify(found));
