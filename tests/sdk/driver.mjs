// Drives the unmodified Directus SDK as an application would, and tells on stdout what the application sees.
//
// The one argument is JSON: {url, client: "ws" | "builtin", deflate, busyMs, authMode, token, subscriptions: {name: {collection, options}}}.
// On stdin, a line each: "unsubscribe NAME", "end". On stdout, a JSON line each: {name, message} for what a
// `for await` loop was given, {listener} for what onWebSocket("message") was given, {state} for the rest.
import { createInterface } from "node:readline";
import { createDirectus, realtime, staticToken } from "@directus/sdk";
import WebSocket from "ws";

const plan = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

class Ws extends WebSocket {
  constructor(url) {
    super(url, { perMessageDeflate: plan.deflate });
    this.on("open", () => say({ state: "open", extensions: this.extensions }));
  }
}

const globals = { ...globalThis, URL, fetch, WebSocket: plan.client === "ws" ? Ws : globalThis.WebSocket };
const anonymous = createDirectus(plan.url, { globals });
const bearer = plan.token ? anonymous.with(staticToken(plan.token)) : anonymous;
const client = bearer.with(realtime({ authMode: plan.authMode }));

function work(ms) {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

async function follow(name, subscription) {
  try {
    for await (const message of subscription) {
      work(plan.busyMs);
      say({ name, message });
    }
    say({ state: "ended", name });
  } catch (error) {
    say({ state: "failed", name, error: error?.error ?? String(error) });
  }
}

await client.connect();
client.onWebSocket("message", (message) => say({ listener: message }));
const unsubscribe = {};
for (const [name, { collection, options }] of Object.entries(plan.subscriptions)) {
  const answer = await client.subscribe(collection, options);
  unsubscribe[name] = answer.unsubscribe;
  follow(name, answer.subscription);
}
say({ state: "subscribed" });

for await (const line of createInterface({ input: process.stdin })) {
  const [command, name] = line.split(" ");
  if (command === "end") break;
  unsubscribe[name]();
}
client.disconnect();
process.stdin.destroy();
setTimeout(process.exit, 500).unref(); // after a reconnect the SDK can leave a second socket behind, still open
