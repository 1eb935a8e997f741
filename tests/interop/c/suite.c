// The official C client (nats.c), unmodified, against a server: one line a check, `ok NAME` or `not ok NAME: reason`.
//
//   suite URL core|mq9 PREFIX
//
// What each check is for: tests/interop/README.md. Replies are compared as text: the client brings no JSON parser, and the
// broker writes no blanks between tokens.

#include <nats/nats.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 10000

static const char *url, *prefix;
static natsConnection *nc;
static char reason[2048];

// Subject names of this run; one buffer is enough because a subject is used before the next is made.
static const char *name(const char *format, ...)
{
    static char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

static bool fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return false;
}

#define EXPECT(condition) \
    do { if (!(condition)) return fail("line %d: %s", __LINE__, #condition); } while (0)
#define OK(call) \
    do { natsStatus status_ = (call); if (status_ != NATS_OK) return fail("line %d: %s: %s", __LINE__, #call, natsStatus_GetText(status_)); } while (0)

static bool is(natsMsg *message, const char *text)
{
    return (size_t)natsMsg_GetDataLength(message) == strlen(text) && memcmp(natsMsg_GetData(message), text, strlen(text)) == 0;
}

// --- core ------------------------------------------------------------------------------------------------------------

static bool check_connect(void)
{
    EXPECT(natsConnection_GetMaxPayload(nc) >= 1024);
    EXPECT(natsConnection_HasHeaderSupport(nc) == NATS_OK);
    int64_t round_trip = 0;
    OK(natsConnection_GetRTT(nc, &round_trip));
    return true;
}

static bool check_pubsub(void)
{
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;
    OK(natsConnection_SubscribeSync(&subscription, nc, name("%s.pubsub", prefix)));
    OK(natsConnection_PublishString(nc, name("%s.pubsub", prefix), "one"));
    OK(natsConnection_Publish(nc, name("%s.pubsub", prefix), "\0\377\r\n", 4));
    OK(natsConnection_Publish(nc, name("%s.pubsub", prefix), NULL, 0));
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    EXPECT(is(message, "one"));
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    EXPECT(natsMsg_GetDataLength(message) == 4 && memcmp(natsMsg_GetData(message), "\0\377\r\n", 4) == 0);
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    EXPECT(natsMsg_GetDataLength(message) == 0);
    natsMsg_Destroy(message);
    natsSubscription_Destroy(subscription);
    return true;
}

static bool check_wildcards(void)
{
    natsSubscription *star = NULL, *rest = NULL;
    natsMsg *message = NULL;
    OK(natsConnection_SubscribeSync(&star, nc, name("%s.wild.*.end", prefix)));
    OK(natsConnection_SubscribeSync(&rest, nc, name("%s.wild.>", prefix)));
    OK(natsConnection_PublishString(nc, name("%s.wild.a.other", prefix), "1"));
    OK(natsConnection_PublishString(nc, name("%s.wild.a.end", prefix), "2"));
    OK(natsSubscription_NextMsg(&message, rest, TIMEOUT_MS));
    EXPECT(is(message, "1"));
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, rest, TIMEOUT_MS));
    EXPECT(is(message, "2"));
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, star, TIMEOUT_MS));
    EXPECT(is(message, "2"));
    natsMsg_Destroy(message);
    natsSubscription_Destroy(star);
    natsSubscription_Destroy(rest);
    return true;
}

static bool check_queue(void)
{
    enum { COUNT = 200 };
    natsSubscription *members[2] = {NULL, NULL};
    uint64_t pending[2] = {0, 0};
    for (int i = 0; i < 2; i++)
        OK(natsConnection_QueueSubscribeSync(&members[i], nc, name("%s.queue", prefix), "workers"));
    for (int i = 0; i < COUNT; i++)
        OK(natsConnection_PublishString(nc, name("%s.queue", prefix), "job"));
    OK(natsConnection_FlushTimeout(nc, TIMEOUT_MS));
    for (int i = 0; i < 2; i++)
        OK(natsSubscription_QueuedMsgs(members[i], &pending[i]));
    if (pending[0] + pending[1] != COUNT || pending[0] < COUNT / 4 || pending[1] < COUNT / 4)
        return fail("%llu and %llu of %d", (unsigned long long)pending[0], (unsigned long long)pending[1], COUNT);
    natsSubscription_Destroy(members[0]);
    natsSubscription_Destroy(members[1]);
    return true;
}

static void answer(natsConnection *connection, natsSubscription *subscription, natsMsg *message, void *closure)
{
    (void)subscription;
    (void)closure;
    char text[64];
    snprintf(text, sizeof text, "re: %.*s", natsMsg_GetDataLength(message), natsMsg_GetData(message));
    natsConnection_PublishString(connection, natsMsg_GetReply(message), text);
    natsMsg_Destroy(message);
}

static bool check_request(void)
{
    natsSubscription *service = NULL;
    natsMsg *reply = NULL;
    OK(natsConnection_Subscribe(&service, nc, name("%s.service", prefix), answer, NULL));
    for (int i = 1; i <= 3; i++) {
        char question[8], expected[16];
        snprintf(question, sizeof question, "%d", i);
        snprintf(expected, sizeof expected, "re: %d", i);
        OK(natsConnection_RequestString(&reply, nc, name("%s.service", prefix), question, TIMEOUT_MS));
        EXPECT(is(reply, expected));
        natsMsg_Destroy(reply);
    }
    natsSubscription_Destroy(service);
    return true;
}

static bool check_no_responders(void)
{
    natsMsg *reply = NULL;
    EXPECT(natsConnection_RequestString(&reply, nc, name("%s.nobody", prefix), "", TIMEOUT_MS) == NATS_NO_RESPONDERS);
    return true;
}

static bool check_headers(void)
{
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;
    const char **values = NULL;
    int count = 0;
    OK(natsConnection_SubscribeSync(&subscription, nc, name("%s.headers", prefix)));
    char reply[256];
    snprintf(reply, sizeof reply, "%s.reply", prefix);
    OK(natsMsg_Create(&message, name("%s.headers", prefix), reply, "x", 1));
    OK(natsMsgHeader_Add(message, "Trace", "a"));
    OK(natsMsgHeader_Add(message, "Trace", "b"));
    OK(natsConnection_PublishMsg(nc, message));
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    OK(natsMsgHeader_Values(message, "Trace", &values, &count));
    EXPECT(count == 2 && strcmp(values[0], "a") == 0 && strcmp(values[1], "b") == 0);
    EXPECT(strcmp(natsMsg_GetReply(message), reply) == 0);
    free((void *)values);
    natsMsg_Destroy(message);
    natsSubscription_Destroy(subscription);
    return true;
}

static bool check_unsub_max(void)
{
    natsSubscription *subscription = NULL;
    uint64_t pending = 0;
    OK(natsConnection_SubscribeSync(&subscription, nc, name("%s.max", prefix)));
    OK(natsSubscription_AutoUnsubscribe(subscription, 2));
    for (int i = 0; i < 3; i++)
        OK(natsConnection_PublishString(nc, name("%s.max", prefix), "x"));
    OK(natsConnection_FlushTimeout(nc, TIMEOUT_MS));
    OK(natsSubscription_QueuedMsgs(subscription, &pending));
    EXPECT(pending == 2);
    natsSubscription_Destroy(subscription);
    return true;
}

static bool check_large(void)
{
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;
    int size = (int)natsConnection_GetMaxPayload(nc);
    char *data = calloc(1, (size_t)size);
    OK(natsConnection_SubscribeSync(&subscription, nc, name("%s.large", prefix)));
    OK(natsConnection_Publish(nc, name("%s.large", prefix), data, size));
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    EXPECT(natsMsg_GetDataLength(message) == size);
    free(data);
    natsMsg_Destroy(message);
    natsSubscription_Destroy(subscription);
    return true;
}

static int drained;

static void count_drained(natsConnection *connection, natsSubscription *subscription, natsMsg *message, void *closure)
{
    (void)connection;
    (void)subscription;
    (void)closure;
    drained++;
    natsMsg_Destroy(message);
}

static bool check_drain(void)
{
    natsConnection *own = NULL;
    natsSubscription *subscription = NULL;
    OK(natsConnection_ConnectTo(&own, url));
    OK(natsConnection_Subscribe(&subscription, own, name("%s.drain", prefix), count_drained, NULL));
    for (int i = 0; i < 50; i++)
        OK(natsConnection_PublishString(own, name("%s.drain", prefix), "x"));
    OK(natsConnection_Flush(own));
    OK(natsSubscription_Drain(subscription));
    OK(natsSubscription_WaitForDrainCompletion(subscription, TIMEOUT_MS));
    EXPECT(drained == 50);
    OK(natsConnection_Drain(own));
    natsSubscription_Destroy(subscription);
    natsConnection_Destroy(own);
    return true;
}

// --- mq9 -------------------------------------------------------------------------------------------------------------

static char reply_text[65536];

// One request to `$mq9.AI.<command>`; its reply as text in reply_text.
static bool call(const char *command, const char *body, const char *priority)
{
    natsMsg *request = NULL, *reply = NULL;
    char subject[512];
    snprintf(subject, sizeof subject, "$mq9.AI.%s", command);
    OK(natsMsg_Create(&request, subject, NULL, body, (int)strlen(body)));
    if (priority != NULL) {
        OK(natsMsgHeader_Set(request, "mq9-priority", priority));
        OK(natsMsgHeader_Set(request, "Trace", "abc"));
    }
    OK(natsConnection_RequestMsg(&reply, nc, request, TIMEOUT_MS));
    snprintf(reply_text, sizeof reply_text, "%.*s", natsMsg_GetDataLength(reply), natsMsg_GetData(reply));
    natsMsg_Destroy(request);
    natsMsg_Destroy(reply);
    return true;
}

static bool has(const char *text)
{
    return strstr(reply_text, text) != NULL || fail("no %s in %s", text, reply_text);
}

#define CALL(command, body) \
    do { char command_[512]; snprintf(command_, sizeof command_, "%s", command); if (!call(command_, body, NULL)) return false; } while (0)
#define HAS(text) \
    do { if (!has(text)) return false; } while (0)

static bool check_create(void)
{
    char body[300], text[300];
    snprintf(body, sizeof body, "{\"name\":\"%s\"}", prefix);
    CALL("MAILBOX.CREATE", body);
    snprintf(text, sizeof text, "\"mail_address\":\"%s\"", prefix);
    HAS("\"error\":\"\"");
    HAS(text);
    HAS("\"is_new\":true");
    CALL("MAILBOX.CREATE", body);
    snprintf(text, sizeof text, "mailbox %s already exists", prefix);
    HAS(text);
    HAS("MAILBOX_EXISTS");
    return true;
}

static bool check_send(void)
{
    char command[300];
    snprintf(command, sizeof command, "MSG.SEND.%s", prefix);
    CALL(command, "plain");
    HAS("\"msg_id\":1");
    if (!call(command, "hello", "urgent"))
        return false;
    HAS("\"msg_id\":2");
    return true;
}

static bool check_fetch(void)
{
    CALL(name("MSG.FETCH.%s", prefix), "{\"group_name\":\"g\",\"deliver\":\"earliest\",\"encoding\":\"text\"}");
    HAS("\"payload\":\"hello\"");
    HAS("\"payload\":\"plain\"");
    HAS("\"priority\":\"urgent\"");
    EXPECT(strstr(reply_text, "hello") < strstr(reply_text, "plain"));
    return true;
}

static bool check_stream(void)
{
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;
    const char *value = NULL;
    char inbox[300];
    snprintf(inbox, sizeof inbox, "_INBOX.%s.stream", prefix);
    OK(natsConnection_SubscribeSync(&subscription, nc, inbox));
    const char *body = "{\"deliver\":\"earliest\",\"config\":{\"stream\":true}}";
    OK(natsConnection_PublishRequestString(nc, name("$mq9.AI.MSG.FETCH.%s", prefix), inbox, body));
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    EXPECT(is(message, "hello"));
    OK(natsMsgHeader_Get(message, "mq9-msg-id", &value));
    EXPECT(strcmp(value, "2") == 0);
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    EXPECT(is(message, "plain"));
    natsMsg_Destroy(message);
    OK(natsSubscription_NextMsg(&message, subscription, TIMEOUT_MS));
    OK(natsMsgHeader_Get(message, "Status", &value));
    EXPECT(strcmp(value, "204") == 0);
    OK(natsMsgHeader_Get(message, "mq9-count", &value));
    EXPECT(strcmp(value, "2") == 0);
    natsMsg_Destroy(message);
    natsSubscription_Destroy(subscription);
    return true;
}

static bool check_ack(void)
{
    CALL(name("MSG.ACK.%s", prefix), "{\"group_name\":\"g\",\"msg_id\":1}");
    HAS("\"error\":\"\"");
    CALL(name("MSG.FETCH.%s", prefix), "{\"group_name\":\"g\",\"config\":{\"max_wait_ms\":1}}");
    HAS("\"messages\":[]");
    return true;
}

static bool check_query(void)
{
    CALL(name("MSG.QUERY.%s", prefix), "{\"limit\":10}");
    HAS("\"payload\":\"aGVsbG8=\"");
    HAS("\"payload\":\"cGxhaW4=\"");
    return true;
}

static bool check_delete(void)
{
    CALL(name("MSG.DELETE.%s.1", prefix), "");
    HAS("\"deleted\":true");
    CALL(name("MSG.DELETE.%s.1", prefix), "");
    HAS("message not found");
    HAS("\"deleted\":false");
    return true;
}

static bool agent_call(const char *command, const char *format)
{
    char body[600];
    snprintf(body, sizeof body, format, prefix, prefix, prefix);
    CALL(command, body);
    return true;
}

#define AGENT(command, format) \
    do { if (!agent_call(command, format)) return false; } while (0)

static bool check_register(void)
{
    AGENT("AGENT.REGISTER", "{\"name\":\"%s.agent\",\"mailbox\":\"%s\",\"payload\":\"answers to %s\"}");
    HAS("\"error\":\"\"");
    return true;
}

static bool check_report(void)
{
    AGENT("AGENT.REPORT", "{\"name\":\"%s.agent\",\"status\":\"busy\"}");
    HAS("\"error\":\"\"");
    AGENT("AGENT.REPORT", "{\"name\":\"%s.nobody\"}");
    HAS("agent not found");
    return true;
}

static bool check_discover(void)
{
    AGENT("AGENT.DISCOVER", "{\"text\":\"%s\"}");
    HAS("\"error\":\"\"");
    return has(name("\"name\":\"%s.agent\"", prefix));
}

static bool check_unregister(void)
{
    AGENT("AGENT.UNREGISTER", "{\"name\":\"%s.agent\"}");
    HAS("\"error\":\"\"");
    AGENT("AGENT.UNREGISTER", "{\"name\":\"%s.agent\"}");
    HAS("agent not found");
    return true;
}

// --- running ---------------------------------------------------------------------------------------------------------

typedef struct {
    const char *name;
    bool (*run)(void);
} Check;

static const Check core[] = {
    {"connect", check_connect},     {"pubsub", check_pubsub},     {"wildcards", check_wildcards},
    {"queue", check_queue},         {"request", check_request},   {"no_responders", check_no_responders},
    {"headers", check_headers},     {"unsub_max", check_unsub_max}, {"large", check_large},
    {"drain", check_drain},         {NULL, NULL},
};

static const Check mq9[] = {
    {"create", check_create}, {"send", check_send},     {"fetch", check_fetch},       {"stream", check_stream},
    {"ack", check_ack},       {"query", check_query},   {"delete", check_delete},     {"register", check_register},
    {"report", check_report}, {"discover", check_discover}, {"unregister", check_unregister}, {NULL, NULL},
};

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    url = argv[1];
    prefix = argv[3];
    natsStatus status = natsConnection_ConnectTo(&nc, url);
    if (status != NATS_OK) {
        printf("not ok connect: %s\n", natsStatus_GetText(status));
        return 1;
    }
    int failed = 0;
    for (const Check *check = strcmp(argv[2], "core") == 0 ? core : mq9; check->name != NULL; check++) {
        bool good = check->run();
        failed += !good;
        printf(good ? "ok %s\n" : "not ok %s: %s\n", check->name, reason);
    }
    natsConnection_Destroy(nc);
    nats_Close();
    return failed ? 1 : 0;
}
