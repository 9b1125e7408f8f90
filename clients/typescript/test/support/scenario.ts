/** Program that runs a scenario: the URLs of the server and of its control, and the steps. */

import { run } from "./scenarios.ts";

const [url, control] = process.argv.slice(2);
const response = await fetch(`${control}/steps`);
await run(await response.json(), url!, control!);
