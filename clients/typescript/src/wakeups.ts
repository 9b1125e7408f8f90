/** Moments at which a lost connection is worth a look: pages that are shown again, networks. */

/** A network that goes is one, too; but servers on the same machine need none. */
const EVENTS = ["online", "offline", "visibilitychange"];

/**
 * Call `apply` when the network comes or goes, and when the page is shown again; return a function
 * that ends that. Outside of browsers nothing is ever called.
 */
export function onWakeUp(apply: () => void): () => void {
  const listener = () => globalThis.document?.visibilityState === "hidden" || apply();
  for (const name of EVENTS) globalThis.addEventListener?.(name, listener);
  return () => {
    for (const name of EVENTS) globalThis.removeEventListener?.(name, listener);
  };
}
