// The checks, run in a page of a real browser over ws:// or wss://. The page that loads this says where the broker is:
// ?url=ws://127.0.0.1:PORT&client=nats.ws|nats-core&prefix=NAME. What came out is posted back to /result.
import * as core from "@nats-io/nats-core";
import * as older from "nats.ws";

const query = new URLSearchParams(location.search);
const [url, client, prefix] = ["url", "client", "prefix"].map((name) => query.get(name));
const { headers } = client === "nats.ws" ? older : core;
const connect = client === "nats.ws" ? older.connect : core.wsconnect;

const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (value) => new TextEncoder().encode(value);

function equal(actual, expected) {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
}

async function call(nc, command, body = {}) {
  const reply = await nc.request(`$mq9.AI.${command}`, bytes(JSON.stringify(body)), { timeout: 5000 });
  return JSON.parse(text(reply.data));
}

const checks = {
  async pubsub(nc) {
    const sub = nc.subscribe(`${prefix}.*`, { max: 1 });
    nc.publish(`${prefix}.a`, bytes("hello"));
    for await (const message of sub) equal([message.subject, text(message.data)], [`${prefix}.a`, "hello"]);
  },
  async large(nc) {
    const sub = nc.subscribe(`${prefix}.large`, { max: 1 });
    const payload = new Uint8Array(900_000).fill(7);
    nc.publish(`${prefix}.large`, payload);
    for await (const message of sub) equal([message.data.length, message.data[899_999]], [900_000, 7]);
  },
  async request(nc) {
    nc.subscribe(`${prefix}.echo`, { callback: (error, message) => message.respond(message.data) });
    equal(text((await nc.request(`${prefix}.echo`, bytes("x"))).data), "x");
  },
  async no_responders(nc) {
    const failure = await nc.request(`${prefix}.nobody`, bytes(""), { timeout: 5000 }).catch((error) => error);
    equal(/503|no responders/i.test(`${failure.code} ${failure.message} ${failure.cause?.message}`), true);
  },
  async mailbox(nc) {
    equal((await call(nc, "MAILBOX.CREATE", { name: prefix })).error, "");
    const h = headers();
    h.set("mq9-priority", "critical");
    const sent = await nc.request(`$mq9.AI.MSG.SEND.${prefix}`, bytes("from a page"), { headers: h, timeout: 5000 });
    equal(JSON.parse(text(sent.data)).msg_id, 1);
    const got = await call(nc, `MSG.FETCH.${prefix}`, { group_name: "g", deliver: "earliest", encoding: "text" });
    equal(got.messages.map((message) => [message.payload, message.priority]), [["from a page", "critical"]]);
    equal((await call(nc, `MSG.ACK.${prefix}`, { group_name: "g", msg_id: 1 })).error, "");
    equal((await call(nc, `MSG.FETCH.${prefix}`, { group_name: "g", config: { max_wait_ms: 0 } })).messages, []);
  },
  async push(nc) {
    const sub = nc.subscribe(`$mq9.AI.MAILBOX.MSG.${prefix}.*`, { max: 2 });
    const got = [];
    nc.publish(`$mq9.AI.MSG.SEND.${prefix}`, bytes("live"));
    for await (const message of sub) got.push(text(message.data));
    equal(got, ["from a page", "live"]);
  },
  async agents(nc) {
    equal((await call(nc, "AGENT.REGISTER", { name: prefix, payload: `answers to ${prefix}` })).error, "");
    equal((await call(nc, "AGENT.DISCOVER", { text: prefix })).agents[0].name, prefix);
    equal((await call(nc, "AGENT.UNREGISTER", { name: prefix })).error, "");
  },
  async drain(nc) {
    await nc.drain();
    equal(nc.isClosed(), true);
  },
};

const lines = [];
try {
  const nc = await connect({ servers: url, name: prefix });
  lines.push("ok connect");
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check(nc);
      lines.push(`ok ${name}`);
    } catch (error) {
      lines.push(`not ok ${name}: ${error.stack ?? error}`);
    }
  }
} catch (error) {
  lines.push(`not ok connect: ${error.stack ?? error}`);
}
await fetch("/result", { method: "POST", body: lines.join("\n") });
