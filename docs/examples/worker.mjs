// A worker in another language: the ordinary NATS client, a subject and JSON. No SDK.
//
//   npm install nats
//   eval "$(interlock env)" && node worker.mjs
import { connect, headers, JSONCodec } from "nats";

const nc = await connect({
  servers: process.env.INTERLOCK_NATS_URL,
  user: process.env.INTERLOCK_NATS_USER,
  pass: process.env.INTERLOCK_NATS_PASSWORD,
});
const json = JSONCodec();
const js = nc.jetstream();
const run = `node-${process.pid}-${Date.now()}`;

// Read canonical events. A plain subscription is enough to look on; a durable consumer would also
// get what was published while we were away.
const events = nc.subscribe(`events.training.completed.${run}`, { max: 2 });
const read = (async () => {
  for await (const message of events) {
    const event = json.decode(message.data);
    console.log(`canonical ${message.subject} ${JSON.stringify(event)} from ${message.headers?.get("ce-source")}`);
  }
})();
await nc.flush();

// An old worker's event, spelled as it always was. The id lets us send it again without harm.
const h = headers();
h.set("Nats-Msg-Id", `${run}-1`);
const legacy = { event_type: "TRAINING_COMPLETE", payload: { config_key: run, final_loss: 0.41 }, source: "old-worker" };
await js.publish("legacy.events", json.encode(legacy), { headers: h });
await js.publish("legacy.events", json.encode(legacy), { headers: h });

// A canonical event needs neither a header nor an SDK.
await js.publish(`events.training.completed.${run}`, json.encode({ config: run, model: "v13" }));

await read;
await nc.drain();
