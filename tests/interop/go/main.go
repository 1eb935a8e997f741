// An official Go client (nats.go), unmodified, against a server: one line a check, `ok NAME` or `not ok NAME: reason`.
//
//	suite URL core|mq9 PREFIX
//
// What each check is for: tests/interop/README.md.
package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const timeout = 10 * time.Second

var (
	url, suite, prefix string
	nc                 *nats.Conn
)

type check struct {
	name string
	run  func()
}

// must and want end a check; run turns that into its `not ok` line.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func want(got, expected any) {
	if fmt.Sprint(got) != fmt.Sprint(expected) {
		panic(fmt.Errorf("got %v, expected %v", got, expected))
	}
}

func next(subscription *nats.Subscription) *nats.Msg {
	message, err := subscription.NextMsg(timeout)
	must(err)
	return message
}

func subscribe(name string) *nats.Subscription {
	subscription, err := nc.SubscribeSync(prefix + name)
	must(err)
	return subscription
}

func publish(name, text string) { must(nc.Publish(prefix+name, []byte(text))) }

// --- core ------------------------------------------------------------------------------------------------------

var core = []check{
	{"connect", func() {
		want(nc.HeadersSupported(), true)
		want(nc.MaxPayload() >= 1024, true)
		_, err := nc.RTT()
		must(err)
	}},
	{"pubsub", func() {
		subscription := subscribe(".pubsub")
		for _, text := range []string{"one", "\x00\xff\r\n", ""} {
			publish(".pubsub", text)
			want(string(next(subscription).Data), text)
		}
	}},
	{"wildcards", func() {
		star, rest := subscribe(".wild.*.end"), subscribe(".wild.>")
		publish(".wild.a.other", "1")
		publish(".wild.a.end", "2")
		want(string(next(rest).Data)+string(next(rest).Data), "12")
		want(string(next(star).Data), "2")
	}},
	{"queue", queue},
	{"request", func() {
		_, err := nc.Subscribe(prefix+".service", func(message *nats.Msg) {
			_ = message.Respond(append([]byte("re: "), message.Data...))
		})
		must(err)
		for _, text := range []string{"1", "2", "3"} {
			reply, err := nc.Request(prefix+".service", []byte(text), timeout)
			must(err)
			want(string(reply.Data), "re: "+text)
		}
	}},
	{"no_responders", func() {
		_, err := nc.Request(prefix+".nobody", nil, timeout)
		want(errors.Is(err, nats.ErrNoResponders), true)
	}},
	{"headers", func() {
		subscription := subscribe(".headers")
		message := nats.NewMsg(prefix + ".headers")
		message.Header.Add("Trace", "a")
		message.Header.Add("Trace", "b")
		message.Reply = prefix + ".reply"
		must(nc.PublishMsg(message))
		received := next(subscription)
		want(received.Header.Values("Trace"), []string{"a", "b"})
		want(received.Reply, prefix+".reply")
	}},
	{"unsub_max", func() {
		subscription := subscribe(".max")
		must(subscription.AutoUnsubscribe(2))
		for _, text := range []string{"1", "2", "3"} {
			publish(".max", text)
		}
		want(string(next(subscription).Data)+string(next(subscription).Data), "12")
		_, err := subscription.NextMsg(timeout)
		want(errors.Is(err, nats.ErrMaxMessages), true)
	}},
	{"large", func() {
		subscription := subscribe(".large")
		must(nc.Publish(prefix+".large", make([]byte, nc.MaxPayload())))
		want(len(next(subscription).Data), nc.MaxPayload())
	}},
	{"drain", drain},
}

func queue() {
	const count = 200
	first, err := nc.QueueSubscribeSync(prefix+".queue", "workers")
	must(err)
	second, err := nc.QueueSubscribeSync(prefix+".queue", "workers")
	must(err)
	for range count {
		publish(".queue", "job")
	}
	must(nc.FlushTimeout(timeout))
	one, _, _ := first.Pending()
	other, _, _ := second.Pending()
	want(one+other, count)
	want(min(one, other) >= count/4, true)
	must(first.Unsubscribe())
	must(second.Unsubscribe())
}

func drain() {
	closed := make(chan struct{})
	own, err := nats.Connect(url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	must(err)
	seen := 0
	_, err = own.Subscribe(prefix+".drain", func(*nats.Msg) { seen++ })
	must(err)
	for range 50 {
		must(own.Publish(prefix+".drain", nil))
	}
	must(own.Drain())
	select {
	case <-closed:
	case <-time.After(timeout):
		panic(errors.New("the drain did not end"))
	}
	want(seen, 50)
}

// --- mq9 -------------------------------------------------------------------------------------------------------

type object = map[string]any

func call(command string, body any, headers ...string) object {
	message := nats.NewMsg("$mq9.AI." + command)
	if text, isText := body.(string); isText {
		message.Data = []byte(text)
	} else {
		data, err := json.Marshal(body)
		must(err)
		message.Data = data
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		message.Header.Set(name, value)
	}
	reply, err := nc.RequestMsg(message, timeout)
	must(err)
	var answer object
	must(json.Unmarshal(reply.Data, &answer))
	return answer
}

func payloads(reply object) []string {
	want(reply["error"], "")
	found := []string{}
	for _, item := range reply["messages"].([]any) {
		found = append(found, item.(object)["payload"].(string))
	}
	return found
}

var mq9 = []check{
	{"create", func() {
		made := call("MAILBOX.CREATE", object{"name": prefix})
		want([]any{made["error"], made["mail_address"], made["is_new"]}, []any{"", prefix, true})
		again := call("MAILBOX.CREATE", object{"name": prefix})
		want(again["error"], "mailbox "+prefix+" already exists")
		want(again["code"], "MAILBOX_EXISTS")
	}},
	{"send", func() {
		want(call("MSG.SEND."+prefix, "plain")["msg_id"], 1)
		want(call("MSG.SEND."+prefix, "hello", "mq9-priority: urgent", "Trace: abc")["msg_id"], 2)
	}},
	{"fetch", func() {
		reply := call("MSG.FETCH."+prefix, object{"group_name": "g", "deliver": "earliest", "encoding": "text"})
		want(payloads(reply), []string{"hello", "plain"})
		first := reply["messages"].([]any)[0].(object)
		want(first["priority"], "urgent")
		want(first["headers"].(object)["Trace"], "abc")
	}},
	{"stream", func() {
		inbox := nats.NewInbox()
		subscription, err := nc.SubscribeSync(inbox)
		must(err)
		body := `{"deliver":"earliest","config":{"stream":true}}`
		must(nc.PublishRequest("$mq9.AI.MSG.FETCH."+prefix, inbox, []byte(body)))
		hello, plain, end := next(subscription), next(subscription), next(subscription)
		want(string(hello.Data)+string(plain.Data), "helloplain")
		want(hello.Header["mq9-msg-id"], []string{"2"})
		want(end.Header.Get("Status"), "204")
		want(end.Header["mq9-count"], []string{"2"})
	}},
	{"ack", func() {
		want(call("MSG.ACK."+prefix, object{"group_name": "g", "msg_id": 1})["error"], "")
		want(payloads(call("MSG.FETCH."+prefix, object{"group_name": "g", "config": object{"max_wait_ms": 1}})), []string{})
	}},
	{"query", func() {
		found := payloads(call("MSG.QUERY."+prefix, object{"limit": 10}))
		for index, text := range found {
			data, err := base64.StdEncoding.DecodeString(text)
			must(err)
			found[index] = string(data)
		}
		want(found, []string{"plain", "hello"})
	}},
	{"delete", func() {
		want(call("MSG.DELETE."+prefix+".1", "")["deleted"], true)
		again := call("MSG.DELETE."+prefix+".1", "")
		want([]any{again["error"], again["deleted"]}, []any{"message not found", false})
	}},
	{"register", func() {
		body := object{"name": prefix + ".agent", "mailbox": prefix, "payload": "answers to " + prefix}
		want(call("AGENT.REGISTER", body)["error"], "")
	}},
	{"report", func() {
		want(call("AGENT.REPORT", object{"name": prefix + ".agent", "status": "busy"})["error"], "")
		want(call("AGENT.REPORT", object{"name": prefix + ".nobody"})["error"], "agent not found")
	}},
	{"discover", func() {
		reply := call("AGENT.DISCOVER", object{"text": prefix})
		want(reply["error"], "")
		first := reply["agents"].([]any)[0].(object)
		want([]any{first["name"], first["mailbox"]}, []any{prefix + ".agent", prefix})
	}},
	{"unregister", func() {
		want(call("AGENT.UNREGISTER", object{"name": prefix + ".agent"})["error"], "")
		want(call("AGENT.UNREGISTER", object{"name": prefix + ".agent"})["error"], "agent not found")
	}},
}

// --- running ---------------------------------------------------------------------------------------------------

func (c check) passes() (passed bool) {
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Printf("not ok %s: %v\n", c.name, reason)
		}
	}()
	c.run()
	fmt.Printf("ok %s\n", c.name)
	return true
}

func main() {
	url, suite, prefix = os.Args[1], os.Args[2], os.Args[3]
	var err error
	nc, err = nats.Connect(url, nats.Name(prefix))
	must(err)
	defer nc.Close()
	checks := core
	if suite == "mq9" {
		checks = mq9
	}
	failed := 0
	for _, c := range checks {
		if !c.passes() {
			failed++
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
