// The official Java client (jnats), unmodified, against a server: one line a check, `ok NAME` or `not ok NAME: reason`.
//
//     java -cp ... Suite URL core|mq9 PREFIX
//
// What each check is for: tests/interop/README.md.

import io.nats.client.Connection;
import io.nats.client.Dispatcher;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.Subscription;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import io.nats.client.support.JsonParser;
import io.nats.client.support.JsonValue;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

public final class Suite {
    private static final Duration TIMEOUT = Duration.ofSeconds(10);

    private interface Check {
        void run() throws Exception;
    }

    private record Named(String name, Check check) {}

    private final String url;
    private final String prefix;
    private final Connection nc;

    private Suite(String url, String prefix) throws Exception {
        this.url = url;
        this.prefix = prefix;
        this.nc = Nats.connect(new Options.Builder().server(url).connectionName(prefix).build());
    }

    private static void want(Object got, Object expected) {
        if (!Objects.equals(got, expected)) {
            throw new AssertionError("got " + got + ", expected " + expected);
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(Message message) {
        return new String(message.getData(), StandardCharsets.UTF_8);
    }

    private String subject(String name) {
        return prefix + "." + name;
    }

    private static Message next(Subscription subscription) throws Exception {
        Message message = subscription.nextMessage(TIMEOUT);
        want(message != null, true);
        return message;
    }

    // --- core ---------------------------------------------------------------------------------------------------

    private List<Named> core() {
        return List.of(
            new Named("connect", this::connect), new Named("pubsub", this::pubsub), new Named("wildcards", this::wildcards),
            new Named("queue", this::queue), new Named("request", this::request),
            new Named("no_responders", this::noResponders), new Named("headers", this::headers),
            new Named("unsub_max", this::unsubMax), new Named("large", this::large), new Named("drain", this::drain));
    }

    private void connect() throws Exception {
        want(nc.getServerInfo().isHeadersSupported(), true);
        want(nc.getMaxPayload() >= 1024, true);
        want(nc.RTT().isNegative(), false);
    }

    private void pubsub() throws Exception {
        Subscription subscription = nc.subscribe(subject("pubsub"));
        for (byte[] payload : List.of(bytes("one"), new byte[] {0, -1, 13, 10}, new byte[0])) {
            nc.publish(subject("pubsub"), payload);
            want(java.util.Arrays.equals(next(subscription).getData(), payload), true);
        }
    }

    private void wildcards() throws Exception {
        Subscription star = nc.subscribe(subject("wild.*.end"));
        Subscription rest = nc.subscribe(subject("wild.>"));
        nc.publish(subject("wild.a.other"), bytes("1"));
        nc.publish(subject("wild.a.end"), bytes("2"));
        want(text(next(rest)) + text(next(rest)) + text(next(star)), "122");
    }

    private void queue() throws Exception {
        int count = 200;
        Subscription first = nc.subscribe(subject("queue"), "workers");
        Subscription second = nc.subscribe(subject("queue"), "workers");
        for (int i = 0; i < count; i++) {
            nc.publish(subject("queue"), bytes("job"));
        }
        nc.flush(TIMEOUT);
        want(first.getPendingMessageCount() + second.getPendingMessageCount(), (long) count);
        want(Math.min(first.getPendingMessageCount(), second.getPendingMessageCount()) >= count / 4, true);
        first.unsubscribe();
        second.unsubscribe();
    }

    private void request() throws Exception {
        Dispatcher service = nc.createDispatcher(message ->
            nc.publish(message.getReplyTo(), bytes("re: " + text(message))));
        service.subscribe(subject("service"));
        for (String question : List.of("1", "2", "3")) {
            want(text(nc.request(subject("service"), bytes(question), TIMEOUT)), "re: " + question);
        }
        nc.closeDispatcher(service);
    }

    private void noResponders() throws Exception {
        try {
            nc.request(subject("nobody"), new byte[0]).get(TIMEOUT.toSeconds(), TimeUnit.SECONDS);
            throw new AssertionError("answered");
        } catch (CancellationException expected) {
            want(nc.getStatus(), Connection.Status.CONNECTED);
        } catch (ExecutionException expected) {
            want(String.valueOf(expected.getCause()).contains("503"), true);
        }
    }

    private void headers() throws Exception {
        Subscription subscription = nc.subscribe(subject("headers"));
        Headers sent = new Headers().add("Trace", "a", "b");
        nc.publish(NatsMessage.builder().subject(subject("headers")).replyTo(subject("reply")).headers(sent).data("x").build());
        Message received = next(subscription);
        want(received.getHeaders().get("Trace"), List.of("a", "b"));
        want(received.getReplyTo(), subject("reply"));
    }

    private void unsubMax() throws Exception {
        Subscription subscription = nc.subscribe(subject("max"));
        subscription.unsubscribe(2);
        for (int i = 0; i < 3; i++) {
            nc.publish(subject("max"), bytes("x"));
        }
        next(subscription);
        next(subscription);
        nc.flush(TIMEOUT);
        want(subscription.isActive(), false);
    }

    private void large() throws Exception {
        Subscription subscription = nc.subscribe(subject("large"));
        nc.publish(subject("large"), new byte[(int) nc.getMaxPayload()]);
        want((long) next(subscription).getData().length, nc.getMaxPayload());
    }

    private void drain() throws Exception {
        Connection own = Nats.connect(url);
        AtomicInteger seen = new AtomicInteger();
        own.createDispatcher(message -> seen.incrementAndGet()).subscribe(subject("drain"));
        for (int i = 0; i < 50; i++) {
            own.publish(subject("drain"), bytes("x"));
        }
        CompletableFuture<Boolean> drained = own.drain(TIMEOUT);
        want(drained.get(TIMEOUT.toSeconds(), TimeUnit.SECONDS), true);
        want(seen.get(), 50);
    }

    // --- mq9 ----------------------------------------------------------------------------------------------------

    private List<Named> mq9() {
        return List.of(
            new Named("create", this::create), new Named("send", this::send), new Named("fetch", this::fetch),
            new Named("stream", this::stream), new Named("ack", this::ack), new Named("query", this::query),
            new Named("delete", this::delete), new Named("register", this::register), new Named("report", this::report),
            new Named("discover", this::discover), new Named("unregister", this::unregister));
    }

    private Map<String, JsonValue> call(String command, String body, Headers headers) throws Exception {
        Message request = NatsMessage.builder().subject("$mq9.AI." + command).headers(headers).data(body).build();
        Message reply = nc.request(request, TIMEOUT);
        want(reply != null, true);
        return JsonParser.parse(reply.getData()).map;
    }

    private Map<String, JsonValue> call(String command, String body) throws Exception {
        return call(command, body.replace('\'', '"').replace("PREFIX", prefix), null);
    }

    private static String error(Map<String, JsonValue> reply) {
        return reply.get("error").string;
    }

    private static String payload(Map<String, JsonValue> reply, int index) {
        return reply.get("messages").array.get(index).map.get("payload").string;
    }

    private void create() throws Exception {
        Map<String, JsonValue> made = call("MAILBOX.CREATE", "{'name':'PREFIX'}");
        want(error(made) + made.get("mail_address").string, prefix);
        want(made.get("is_new").bool, true);
        Map<String, JsonValue> again = call("MAILBOX.CREATE", "{'name':'PREFIX'}");
        want(error(again), "mailbox " + prefix + " already exists");
        want(again.get("code").string, "MAILBOX_EXISTS");
    }

    private void send() throws Exception {
        want(call("MSG.SEND." + prefix, "plain").get("msg_id").i, 1);
        Headers sent = new Headers().add("mq9-priority", "urgent").add("Trace", "abc");
        want(call("MSG.SEND." + prefix, "hello", sent).get("msg_id").i, 2);
    }

    private void fetch() throws Exception {
        Map<String, JsonValue> reply =
            call("MSG.FETCH." + prefix, "{'group_name':'g','deliver':'earliest','encoding':'text'}");
        want(error(reply) + payload(reply, 0) + payload(reply, 1), "helloplain");
        Map<String, JsonValue> first = reply.get("messages").array.get(0).map;
        want(first.get("priority").string, "urgent");
        want(first.get("headers").map.get("Trace").string, "abc");
    }

    private void stream() throws Exception {
        String inbox = nc.createInbox();
        Subscription subscription = nc.subscribe(inbox);
        nc.publish("$mq9.AI.MSG.FETCH." + prefix, inbox, bytes("{\"deliver\":\"earliest\",\"config\":{\"stream\":true}}"));
        Message hello = next(subscription);
        want(text(hello) + text(next(subscription)), "helloplain");
        want(hello.getHeaders().getFirst("mq9-msg-id"), "2");
        Message end = next(subscription);
        want(end.getStatus().getCode(), 204);
        want(end.getHeaders().getFirst("mq9-count"), "2");
    }

    private void ack() throws Exception {
        want(error(call("MSG.ACK." + prefix, "{'group_name':'g','msg_id':1}")), "");
        Map<String, JsonValue> rest = call("MSG.FETCH." + prefix, "{'group_name':'g','config':{'max_wait_ms':1}}");
        want(rest.get("messages").array.size(), 0);
    }

    private void query() throws Exception {
        Map<String, JsonValue> reply = call("MSG.QUERY." + prefix, "{'limit':10}");
        byte[] first = Base64.getDecoder().decode(payload(reply, 0));
        byte[] second = Base64.getDecoder().decode(payload(reply, 1));
        want(new String(first) + new String(second), "plainhello");
    }

    private void delete() throws Exception {
        want(call("MSG.DELETE." + prefix + ".1", "").get("deleted").bool, true);
        Map<String, JsonValue> again = call("MSG.DELETE." + prefix + ".1", "");
        want(error(again), "message not found");
        want(again.get("deleted").bool, false);
    }

    private void register() throws Exception {
        String body = "{'name':'PREFIX.agent','mailbox':'PREFIX','payload':'answers to PREFIX'}";
        want(error(call("AGENT.REGISTER", body)), "");
    }

    private void report() throws Exception {
        want(error(call("AGENT.REPORT", "{'name':'PREFIX.agent','status':'busy'}")), "");
        want(error(call("AGENT.REPORT", "{'name':'PREFIX.nobody'}")), "agent not found");
    }

    private void discover() throws Exception {
        Map<String, JsonValue> reply = call("AGENT.DISCOVER", "{'text':'PREFIX'}");
        Map<String, JsonValue> first = reply.get("agents").array.get(0).map;
        want(error(reply) + first.get("name").string, prefix + ".agent");
        want(first.get("mailbox").string, prefix);
    }

    private void unregister() throws Exception {
        want(error(call("AGENT.UNREGISTER", "{'name':'PREFIX.agent'}")), "");
        want(error(call("AGENT.UNREGISTER", "{'name':'PREFIX.agent'}")), "agent not found");
    }

    // --- running ------------------------------------------------------------------------------------------------

    private static boolean passes(Named named) {
        try {
            named.check().run();
            System.out.println("ok " + named.name());
            return true;
        } catch (Exception | AssertionError reason) {
            System.out.println("not ok " + named.name() + ": " + reason);
            return false;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Suite suite = new Suite(arguments[0], arguments[2]);
        List<Named> checks = arguments[1].equals("core") ? suite.core() : suite.mq9();
        long failed = checks.stream().filter(named -> !passes(named)).count();
        suite.nc.close();
        System.exit(failed == 0 ? 0 : 1);
    }
}
