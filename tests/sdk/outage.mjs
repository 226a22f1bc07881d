// The README's loop that survives an outage, fed with one argument of JSON: {url, client: "ws" | "builtin"}.
// On stdout, a JSON line for each message and each end of a connection; "end" on stdin ends it.
import { createDirectus, realtime } from "@directus/sdk";
import WebSocket from "ws";

const plan = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const globals = { ...globalThis, URL, fetch, WebSocket: plan.client === "ws" ? WebSocket : globalThis.WebSocket };

async function follow(collection, options, onMessage) {
  for (;;) {
    const client = createDirectus(plan.url, { globals }).with(realtime({ authMode: "public", reconnect: false }));
    let pause = 100;
    client.onWebSocket("close", ({ code, reason }) => {
      if (code === 1012) pause = JSON.parse(reason).retry_ms;
      say({ state: code === 1012 && Number.isInteger(pause) ? "asked to come again" : "closed" });
    });
    try {
      await client.connect();
      const { subscription } = await client.subscribe(collection, options);
      for await (const message of subscription) onMessage(message);
    } catch (error) {
      say({ state: "lost", error: String(error?.error?.message ?? error) });
    }
    client.disconnect();
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

process.stdin.on("data", () => process.exit());
follow("messages", {}, (message) => say({ name: "m", message }));
say({ state: "subscribed" });
