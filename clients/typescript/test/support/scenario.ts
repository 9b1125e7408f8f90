/** Program that runs a scenario: the URLs of the server and of its control, which has the steps. */

import { run } from "./scenarios.ts";

const [url, control] = process.argv.slice(2);
const response = await fetch(`${control}/steps`);
let status = 0;
try {
  await run(await response.json(), url!, control!);
} catch (error) {
  status = 1;
  console.error(error);
}
process.exit(status); // without waiting for connections that lead into a black hole
