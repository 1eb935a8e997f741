//! The official Rust client (async-nats), unmodified, against a server: one line a check, `ok NAME` or `not ok NAME: reason`.
//!
//!     suite URL core|mq9 PREFIX
//!
//! What each check is for: tests/interop/README.md.

use async_nats::{Client, HeaderMap, Message, RequestErrorKind, Subscriber};
use base64::prelude::{Engine, BASE64_STANDARD};
use futures::StreamExt;
use serde_json::{json, Value};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error>;
type Checked = Result<(), Failure>;

macro_rules! want {
    ($got:expr, $expected:expr) => {{
        let (got, expected) = (&$got, &$expected);
        if got != expected {
            return Err(format!("line {}: got {:?}, expected {:?}", line!(), got, expected).into());
        }
    }};
}

struct Run {
    url: String,
    prefix: String,
    client: Client,
}

async fn next(subscriber: &mut Subscriber) -> Result<Message, Failure> {
    Ok(tokio::time::timeout(TIMEOUT, subscriber.next()).await?.ok_or("the subscription ended")?)
}

impl Run {
    fn subject(&self, name: &str) -> String {
        format!("{}.{}", self.prefix, name)
    }

    async fn subscribe(&self, name: &str) -> Result<Subscriber, Failure> {
        Ok(self.client.subscribe(self.subject(name)).await?)
    }

    async fn publish(&self, name: &str, payload: &'static [u8]) -> Checked {
        Ok(self.client.publish(self.subject(name), payload.into()).await?)
    }

    // --- core --------------------------------------------------------------------------------------------------

    async fn connect(&self) -> Checked {
        let info = self.client.server_info();
        want!(info.headers, true);
        want!(info.max_payload >= 1024, true);
        Ok(self.client.flush().await?)
    }

    async fn pubsub(&self) -> Checked {
        let mut subscriber = self.subscribe("pubsub").await?;
        for payload in [&b"one"[..], b"\x00\xff\r\n", b""] {
            self.publish("pubsub", payload).await?;
            want!(&next(&mut subscriber).await?.payload[..], payload);
        }
        Ok(())
    }

    async fn wildcards(&self) -> Checked {
        let mut star = self.subscribe("wild.*.end").await?;
        let mut rest = self.subscribe("wild.>").await?;
        self.publish("wild.a.other", b"1").await?;
        self.publish("wild.a.end", b"2").await?;
        want!(&next(&mut rest).await?.payload[..], b"1");
        want!(&next(&mut rest).await?.payload[..], b"2");
        want!(&next(&mut star).await?.payload[..], b"2");
        Ok(())
    }

    async fn queue(&self) -> Checked {
        let mut first = self.client.queue_subscribe(self.subject("queue"), "workers".into()).await?;
        let mut second = self.client.queue_subscribe(self.subject("queue"), "workers".into()).await?;
        for _ in 0..200 {
            self.publish("queue", b"job").await?;
        }
        let (mut one, mut other) = (0, 0);
        while one + other < 200 {
            tokio::select! {
                message = next(&mut first) => { message?; one += 1 }
                message = next(&mut second) => { message?; other += 1 }
            }
        }
        want!(one.min(other) >= 50, true);
        Ok(())
    }

    async fn request(&self) -> Checked {
        let mut service = self.subscribe("service").await?;
        let client = self.client.clone();
        let answering = async {
            for _ in 0..3 {
                let message = next(&mut service).await?;
                let answer = [b"re: ", &message.payload[..]].concat();
                client.publish(message.reply.ok_or("no reply subject")?, answer.into()).await?;
            }
            Ok::<(), Failure>(())
        };
        let asking = async {
            for question in ["1", "2", "3"] {
                let reply = self.client.request(self.subject("service"), question.into()).await?;
                want!(String::from_utf8_lossy(&reply.payload), format!("re: {question}"));
            }
            Ok::<(), Failure>(())
        };
        let (asked, answered) = futures::join!(asking, answering);
        asked.and(answered)
    }

    async fn no_responders(&self) -> Checked {
        let failure = self.client.request(self.subject("nobody"), "".into()).await.err().ok_or("answered")?;
        want!(failure.kind(), RequestErrorKind::NoResponders);
        Ok(())
    }

    async fn headers(&self) -> Checked {
        let mut subscriber = self.subscribe("headers").await?;
        let mut headers = HeaderMap::new();
        headers.append("Trace", "a");
        headers.append("Trace", "b");
        let reply = self.subject("reply");
        self.client.publish_with_reply_and_headers(self.subject("headers"), reply.clone(), headers, "x".into()).await?;
        let message = next(&mut subscriber).await?;
        let received = message.headers.ok_or("no headers")?;
        want!(received.get_all("Trace").map(|value| value.to_string()).collect::<Vec<_>>(), ["a", "b"]);
        want!(message.reply.map(|subject| subject.to_string()), Some(reply));
        Ok(())
    }

    async fn unsub_max(&self) -> Checked {
        let mut subscriber = self.subscribe("max").await?;
        subscriber.unsubscribe_after(2).await?;
        for _ in 0..3 {
            self.publish("max", b"x").await?;
        }
        next(&mut subscriber).await?;
        next(&mut subscriber).await?;
        want!(tokio::time::timeout(TIMEOUT, subscriber.next()).await?.is_none(), true);
        Ok(())
    }

    async fn large(&self) -> Checked {
        let mut subscriber = self.subscribe("large").await?;
        let size = self.client.server_info().max_payload;
        self.client.publish(self.subject("large"), vec![0; size].into()).await?;
        want!(next(&mut subscriber).await?.payload.len(), size);
        Ok(())
    }

    async fn drain(&self) -> Checked {
        let own = async_nats::connect(&self.url).await?;
        let mut subscriber = own.subscribe(self.subject("drain")).await?;
        for _ in 0..50 {
            own.publish(self.subject("drain"), "x".into()).await?;
        }
        own.drain().await?;
        let mut seen = 0;
        while tokio::time::timeout(TIMEOUT, subscriber.next()).await?.is_some() {
            seen += 1;
        }
        want!(seen, 50);
        Ok(())
    }

    // --- mq9 ---------------------------------------------------------------------------------------------------

    async fn ask(&self, command: &str, payload: String, headers: HeaderMap) -> Result<Value, Failure> {
        let request = async_nats::Request::new().payload(payload.into()).headers(headers).timeout(Some(TIMEOUT));
        let reply = self.client.send_request(format!("$mq9.AI.{command}"), request).await?;
        Ok(serde_json::from_slice(&reply.payload)?)
    }

    async fn call(&self, command: &str, body: Value) -> Result<Value, Failure> {
        self.ask(command, body.to_string(), HeaderMap::new()).await
    }

    async fn on_mailbox(&self, command: &str, body: Value) -> Result<Value, Failure> {
        self.call(&format!("{command}.{}", self.prefix), body).await
    }

    async fn create(&self) -> Checked {
        let made = self.call("MAILBOX.CREATE", json!({"name": self.prefix})).await?;
        want!(json!([made["error"], made["mail_address"], made["is_new"]]), json!(["", self.prefix, true]));
        let again = self.call("MAILBOX.CREATE", json!({"name": self.prefix})).await?;
        want!(again["error"], json!(format!("mailbox {} already exists", self.prefix)));
        want!(again["code"], json!("MAILBOX_EXISTS"));
        Ok(())
    }

    async fn send(&self) -> Checked {
        let command = format!("MSG.SEND.{}", self.prefix);
        want!(self.ask(&command, "plain".into(), HeaderMap::new()).await?["msg_id"], json!(1));
        let mut headers = HeaderMap::new();
        headers.insert("mq9-priority", "urgent");
        headers.insert("Trace", "abc");
        want!(self.ask(&command, "hello".into(), headers).await?["msg_id"], json!(2));
        Ok(())
    }

    async fn fetch(&self) -> Checked {
        let body = json!({"group_name": "g", "deliver": "earliest", "encoding": "text"});
        let reply = self.on_mailbox("MSG.FETCH", body).await?;
        let messages = &reply["messages"];
        want!(json!([reply["error"], messages[0]["payload"], messages[1]["payload"]]), json!(["", "hello", "plain"]));
        want!(json!([messages[0]["priority"], messages[0]["headers"]["Trace"]]), json!(["urgent", "abc"]));
        Ok(())
    }

    async fn stream(&self) -> Checked {
        let inbox = self.client.new_inbox();
        let mut subscriber = self.client.subscribe(inbox.clone()).await?;
        let body = json!({"deliver": "earliest", "config": {"stream": true}}).to_string();
        self.client.publish_with_reply(format!("$mq9.AI.MSG.FETCH.{}", self.prefix), inbox, body.into()).await?;
        let hello = next(&mut subscriber).await?;
        let plain = next(&mut subscriber).await?;
        let end = next(&mut subscriber).await?;
        want!([&hello.payload[..], &plain.payload[..]].concat(), b"helloplain");
        let id = hello.headers.ok_or("no headers")?.get("mq9-msg-id").map(|value| value.to_string());
        want!(id, Some("2".to_string()));
        want!(end.status.map(|status| status.as_u16()), Some(204));
        let count = end.headers.ok_or("no headers")?.get("mq9-count").map(|value| value.to_string());
        want!(count, Some("2".to_string()));
        Ok(())
    }

    async fn ack(&self) -> Checked {
        want!(self.on_mailbox("MSG.ACK", json!({"group_name": "g", "msg_id": 1})).await?["error"], json!(""));
        let body = json!({"group_name": "g", "config": {"max_wait_ms": 1}});
        want!(self.on_mailbox("MSG.FETCH", body).await?["messages"], json!([]));
        Ok(())
    }

    async fn query(&self) -> Checked {
        let reply = self.on_mailbox("MSG.QUERY", json!({"limit": 10})).await?;
        let encoded = [&reply["messages"][0]["payload"], &reply["messages"][1]["payload"]];
        let mut found = Vec::new();
        for payload in encoded {
            found.push(String::from_utf8(BASE64_STANDARD.decode(payload.as_str().ok_or("no text")?)?)?);
        }
        want!(found, ["plain", "hello"]);
        Ok(())
    }

    async fn delete(&self) -> Checked {
        let command = format!("MSG.DELETE.{}.1", self.prefix);
        want!(self.call(&command, Value::Null).await?["deleted"], json!(true));
        let again = self.call(&command, Value::Null).await?;
        want!(json!([again["error"], again["deleted"]]), json!(["message not found", false]));
        Ok(())
    }

    async fn register(&self) -> Checked {
        let body = json!({
            "name": self.subject("agent"), "mailbox": self.prefix, "payload": format!("answers to {}", self.prefix),
        });
        want!(self.call("AGENT.REGISTER", body).await?["error"], json!(""));
        Ok(())
    }

    async fn report(&self) -> Checked {
        let body = json!({"name": self.subject("agent"), "status": "busy"});
        want!(self.call("AGENT.REPORT", body).await?["error"], json!(""));
        let nobody = json!({"name": self.subject("nobody")});
        want!(self.call("AGENT.REPORT", nobody).await?["error"], json!("agent not found"));
        Ok(())
    }

    async fn discover(&self) -> Checked {
        let reply = self.call("AGENT.DISCOVER", json!({"text": self.prefix})).await?;
        let first = &reply["agents"][0];
        want!(json!([reply["error"], first["name"], first["mailbox"]]), json!(["", self.subject("agent"), self.prefix]));
        Ok(())
    }

    async fn unregister(&self) -> Checked {
        let body = json!({"name": self.subject("agent")});
        want!(self.call("AGENT.UNREGISTER", body.clone()).await?["error"], json!(""));
        want!(self.call("AGENT.UNREGISTER", body).await?["error"], json!("agent not found"));
        Ok(())
    }
}

macro_rules! run {
    ($run:expr, $($check:ident),*) => {{
        let mut failed = 0;
        $(match $run.$check().await {
            Ok(()) => println!("ok {}", stringify!($check)),
            Err(reason) => { failed += 1; println!("not ok {}: {reason}", stringify!($check)) }
        })*
        failed
    }};
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Checked {
    let [_, url, suite, prefix] = <[String; 4]>::try_from(std::env::args().collect::<Vec<_>>()).map_err(|_| "usage")?;
    let client = async_nats::ConnectOptions::new().name(&prefix).connect(&url).await?;
    let run = Run { url, prefix, client };
    let failed = if suite == "core" {
        run!(run, connect, pubsub, wildcards, queue, request, no_responders, headers, unsub_max, large, drain)
    } else {
        run!(run, create, send, fetch, stream, ack, query, delete, register, report, discover, unregister)
    };
    std::process::exit(i32::from(failed > 0));
}
