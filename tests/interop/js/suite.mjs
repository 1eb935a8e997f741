// An official JavaScript client, unmodified, against a server: one line a check, `ok NAME` or `not ok NAME: reason`.
//
//   node suite.mjs MODULE URL core|mq9 PREFIX
//
// MODULE is `nats` (second generation) or `@nats-io/transport-node` (third). PREFIX is a name nobody else uses.
// What each check is for: tests/interop/README.md.

import assert from "node:assert/strict";

const [module, url, suite, prefix] = process.argv.slice(2);
const { connect, headers } = await import(module);

const text = (message) => new TextDecoder().decode(message.data);

async function collect(subscription, count) {
  const messages = [];
  for await (const message of subscription) {
    messages.push(message);
    if (messages.length === count) break;
  }
  return messages;
}

const isNoResponders = (error) =>
  error.code === "503" || error.name === "NoRespondersError" || error.isNoResponders?.() === true;

const core = {
  async connect(nc) {
    assert.equal(nc.info.headers, true);
    assert.ok(nc.info.max_payload >= 1024);
    assert.ok((await nc.rtt()) >= 0);
  },

  async pubsub(nc) {
    const subscription = nc.subscribe(`${prefix}.pubsub`);
    nc.publish(`${prefix}.pubsub`, "one");
    nc.publish(`${prefix}.pubsub`, new Uint8Array([0, 255, 13, 10]));
    nc.publish(`${prefix}.pubsub`);
    const [one, bytes, empty] = await collect(subscription, 3);
    assert.equal(text(one), "one");
    assert.deepEqual([...bytes.data], [0, 255, 13, 10]);
    assert.equal(empty.data.length, 0);
  },

  async wildcards(nc) {
    const star = nc.subscribe(`${prefix}.wild.*.end`);
    const rest = nc.subscribe(`${prefix}.wild.>`);
    nc.publish(`${prefix}.wild.a.other`, "1");
    nc.publish(`${prefix}.wild.a.end`, "2");
    assert.deepEqual((await collect(rest, 2)).map(text), ["1", "2"]);
    assert.deepEqual((await collect(star, 1)).map(text), ["2"]);
  },

  async queue(nc) {
    const counts = [0, 0];
    const seen = new Set();
    const members = counts.map((_, index) =>
      nc.subscribe(`${prefix}.queue`, {
        queue: "workers",
        callback: (_error, message) => {
          counts[index] += 1;
          seen.add(text(message));
        },
      })
    );
    for (let i = 0; i < 200; i += 1) nc.publish(`${prefix}.queue`, `${i}`);
    await nc.flush();
    members.forEach((member) => member.unsubscribe());
    assert.equal(counts[0] + counts[1], 200);
    assert.equal(seen.size, 200);
    assert.ok(Math.min(...counts) >= 50, `uneven: ${counts}`);
  },

  async request(nc) {
    const service = nc.subscribe(`${prefix}.service`, {
      callback: (_error, message) => message.respond(`re: ${text(message)}`),
    });
    const replies = await Promise.all(
      [1, 2, 3].map((i) => nc.request(`${prefix}.service`, `${i}`, { timeout: 5000 }))
    );
    assert.deepEqual(replies.map(text), ["re: 1", "re: 2", "re: 3"]);
    service.unsubscribe();
  },

  async no_responders(nc) {
    await assert.rejects(nc.request(`${prefix}.nobody`, "", { timeout: 5000 }), isNoResponders);
  },

  async headers(nc) {
    const subscription = nc.subscribe(`${prefix}.headers`);
    const sent = headers();
    sent.append("Trace", "a");
    sent.append("Trace", "b");
    nc.publish(`${prefix}.headers`, "x", { headers: sent, reply: `${prefix}.reply` });
    const [message] = await collect(subscription, 1);
    assert.deepEqual(message.headers.values("Trace"), ["a", "b"]);
    assert.equal(message.reply, `${prefix}.reply`);
  },

  async unsub_max(nc) {
    const subscription = nc.subscribe(`${prefix}.max`, { max: 2 });
    for (const word of ["1", "2", "3"]) nc.publish(`${prefix}.max`, word);
    await nc.flush();
    assert.deepEqual((await collect(subscription, 9)).map(text), ["1", "2"]);
  },

  async large(nc) {
    const subscription = nc.subscribe(`${prefix}.large`);
    nc.publish(`${prefix}.large`, new Uint8Array(nc.info.max_payload));
    const [message] = await collect(subscription, 1);
    assert.equal(message.data.length, nc.info.max_payload);
  },

  async drain() {
    const nc = await connect({ servers: url });
    const seen = [];
    nc.subscribe(`${prefix}.drain`, { callback: (_error, message) => seen.push(text(message)) });
    for (let i = 0; i < 50; i += 1) nc.publish(`${prefix}.drain`, `${i}`);
    await nc.drain();
    assert.equal(seen.length, 50);
    assert.equal(nc.isClosed(), true);
  },
};

async function call(nc, command, body = "", fields = {}) {
  const sent = headers();
  for (const [name, value] of Object.entries(fields)) sent.set(name, value);
  const payload = typeof body === "string" ? body : JSON.stringify(body);
  const options = { timeout: 10000, ...(Object.keys(fields).length ? { headers: sent } : {}) };
  return (await nc.request(`$mq9.AI.${command}`, payload, options)).json();
}

const group = { group_name: "g", deliver: "earliest", encoding: "text" };
const agent = `${prefix}.agent`;

const mq9 = {
  async create(nc) {
    const made = await call(nc, "MAILBOX.CREATE", { name: prefix });
    assert.deepEqual([made.error, made.mail_address, made.is_new], ["", prefix, true]);
    const again = await call(nc, "MAILBOX.CREATE", { name: prefix });
    assert.equal(again.error, `mailbox ${prefix} already exists`);
    assert.equal(again.code, "MAILBOX_EXISTS");
  },

  async send(nc) {
    const first = await call(nc, `MSG.SEND.${prefix}`, "plain");
    const second = await call(nc, `MSG.SEND.${prefix}`, "hello", { "mq9-priority": "urgent", Trace: "abc" });
    assert.deepEqual([first, second], [{ error: "", msg_id: 1 }, { error: "", msg_id: 2 }]);
  },

  async fetch(nc) {
    const { error, messages } = await call(nc, `MSG.FETCH.${prefix}`, group);
    assert.equal(error, "");
    assert.deepEqual(messages.map((message) => message.payload), ["hello", "plain"]);
    assert.equal(messages[0].priority, "urgent");
    assert.equal(messages[0].headers.Trace, "abc");
  },

  async stream(nc) {
    const inbox = `_INBOX.${prefix}.stream`;
    const subscription = nc.subscribe(inbox);
    nc.publish(`$mq9.AI.MSG.FETCH.${prefix}`, JSON.stringify({ ...group, group_name: null, config: { stream: true } }), {
      reply: inbox,
    });
    const [hello, plain, end] = await collect(subscription, 3);
    assert.deepEqual([text(hello), text(plain)], ["hello", "plain"]);
    assert.equal(hello.headers.get("mq9-msg-id"), "2");
    assert.deepEqual([end.headers.code, end.headers.get("mq9-count")], [204, "2"]);
  },

  async ack(nc) {
    assert.equal((await call(nc, `MSG.ACK.${prefix}`, { group_name: "g", msg_id: 1 })).error, "");
    const rest = await call(nc, `MSG.FETCH.${prefix}`, { ...group, config: { max_wait_ms: 1 } });
    assert.deepEqual([rest.error, rest.messages], ["", []]);
  },

  async query(nc) {
    const { messages } = await call(nc, `MSG.QUERY.${prefix}`, { limit: 10 });
    assert.deepEqual(messages.map((message) => atob(message.payload)), ["plain", "hello"]);
  },

  async delete(nc) {
    assert.equal((await call(nc, `MSG.DELETE.${prefix}.1`)).deleted, true);
    const again = await call(nc, `MSG.DELETE.${prefix}.1`);
    assert.deepEqual([again.error, again.deleted], ["message not found", false]);
  },

  async register(nc) {
    const body = { name: agent, mailbox: prefix, payload: `answers to ${prefix}` };
    assert.equal((await call(nc, "AGENT.REGISTER", body)).error, "");
  },

  async report(nc) {
    assert.equal((await call(nc, "AGENT.REPORT", { name: agent, status: "busy" })).error, "");
    assert.equal((await call(nc, "AGENT.REPORT", { name: `${agent}.nobody` })).error, "agent not found");
  },

  async discover(nc) {
    const { error, agents } = await call(nc, "AGENT.DISCOVER", { text: prefix });
    assert.equal(error, "");
    assert.equal(agents[0].name, agent);
    assert.equal(agents[0].mailbox, prefix);
  },

  async unregister(nc) {
    assert.equal((await call(nc, "AGENT.UNREGISTER", { name: agent })).error, "");
    assert.equal((await call(nc, "AGENT.UNREGISTER", { name: agent })).error, "agent not found");
  },
};

const nc = await connect({ servers: url, name: `${prefix} ${suite}` });
let failed = 0;
for (const [name, check] of Object.entries(suite === "core" ? core : mq9)) {
  try {
    await check(nc);
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`not ok ${name}: ${error.stack.replaceAll("\n", " | ")}`);
  }
}
await nc.close();
process.exit(failed ? 1 : 0);
