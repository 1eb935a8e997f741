// A load generator that is light enough not to measure itself: one thread, epoll, no library, the NATS protocol by hand.
//
//   load send PORT SUBJECT CONNECTIONS OUTSTANDING SIZE SECONDS GOOD
//       requests on SUBJECT, OUTSTANDING at a time on each connection; a reply without the text GOOD is an error
//   load mq9 PORT MAILBOX CONNECTIONS BATCH COUNT SECONDS
//       FETCH (streamed) of a group, then ACK of the last message, waiting for both, until COUNT messages came
//   load jetstream PORT STREAM.CONSUMER CONNECTIONS BATCH COUNT SECONDS
//       the same on a pull consumer with AckAll: MSG.NEXT, then an acknowledgement that is confirmed
//   load core PORT SUBJECT SUBSCRIBERS AHEAD SIZE SECONDS
//       one connection publishes, never more than AHEAD messages before the slowest of SUBSCRIBERS others; counts deliveries
//
// PORT and SUBJECT (MAILBOX, STREAM.CONSUMER) may be comma-separated lists: the connections take them in turn, so that one
// run loads several nodes and mailboxes. (Not for core, which has one subject.)
//
// Talks to 127.0.0.1 alone and stops after SECONDS. Prints one JSON object: messages, seconds, rate, latency quantiles in
// microseconds (of a request; of a whole batch; none for core), errors.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    char *bytes;
    size_t start, end, size;
} Buffer;

typedef struct {
    const char *subject;
    int fd, number; // the number and the process make its inbox: late answers to another run must not count
    bool wants_write;
    Buffer in, out;
    uint64_t *begun; // send: when each slot's request was made; pull: begun[0] is when the batch was asked for
    int in_batch;
    uint64_t received; // core
    char last[512]; // pull: what the last message of the batch is acknowledged with
} Connection;

// One message from the server. Pointers into the read buffer.
typedef struct {
    const char *subject, *reply, *header, *payload;
    size_t subject_size, reply_size, header_size, payload_size;
} Message;

enum Mode { SEND, MQ9, JETSTREAM, CORE };

static enum Mode mode;
static const char *good;
static int outstanding; // send: requests at a time; pull: the size of a batch
static size_t payload_size;
static char *payload;
static uint64_t wanted, messages, errors, deadline, last_message;
static char first_error[256];
static int epoll_fd, process;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// --- latencies: counts in buckets of about 1.6 %, so that any number of them takes the same memory -----------------------

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS };
static uint64_t histogram[64 * SUB], latencies;

static int bucket_of(uint64_t value)
{
    if (value < SUB)
        return (int)value;
    int shift = 63 - __builtin_clzll(value) - SUB_BITS;
    return (shift + 1) * SUB + (int)((value >> shift) - SUB);
}

static double value_of(int bucket)
{
    if (bucket < SUB)
        return bucket;
    int shift = bucket / SUB - 1;
    return (double)((uint64_t)(bucket % SUB + SUB) << shift);
}

static double quantile_us(double quantile)
{
    uint64_t rank = (uint64_t)(quantile * (double)latencies), seen = 0;
    for (int bucket = 0; bucket < 64 * SUB; bucket++) {
        seen += histogram[bucket];
        if (seen > rank)
            return value_of(bucket) / 1000;
    }
    return 0;
}

static void record_since(uint64_t begun)
{
    last_message = now_ns();
    histogram[bucket_of(last_message - begun)]++;
    latencies++;
}

// --- buffers and sockets -------------------------------------------------------------------------------------------------

static char *room(Buffer *buffer, size_t size)
{
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->end + size > buffer->size && buffer->start > 0) {
        memmove(buffer->bytes, buffer->bytes + buffer->start, buffer->end - buffer->start);
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + size > buffer->size) {
        buffer->size = 2 * (buffer->end + size);
        buffer->bytes = realloc(buffer->bytes, buffer->size);
        if (buffer->bytes == NULL)
            die("out of memory");
    }
    return buffer->bytes + buffer->end;
}

static void publish(Connection *connection, const char *to, const char *reply, const char *data, size_t size)
{
    Buffer *out = &connection->out;
    size_t head = strlen(to) + strlen(reply) + 64;
    char *text = room(out, head + size + 2);
    int written = snprintf(text, head, "PUB %s %s %zu\r\n", to, reply, size);
    memcpy(text + written, data, size);
    memcpy(text + written + (int)size, "\r\n", 2);
    out->end += (size_t)written + size + 2;
}

static void flush(Connection *connection)
{
    Buffer *out = &connection->out;
    while (out->start < out->end) {
        ssize_t written = write(connection->fd, out->bytes + out->start, out->end - out->start);
        if (written < 0 && errno == EAGAIN)
            break;
        if (written < 0)
            die("write: %s", strerror(errno));
        out->start += (size_t)written;
    }
    bool waits = out->start < out->end;
    if (waits != connection->wants_write) {
        connection->wants_write = waits;
        struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = connection};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
    }
}

// The item of a comma-separated list that is number `number`'s turn.
static char *turn_of(const char *list, int number)
{
    int items = 1;
    for (const char *at = list; *at; at++)
        items += *at == ',';
    for (int skipped = 0; skipped < number % items; skipped++)
        list = strchr(list, ',') + 1;
    return strndup(list, strcspn(list, ","));
}

static void open_connection(Connection *connection, int number, const char *ports, const char *subjects)
{
    int port = atoi(turn_of(ports, number));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    connection->number = number;
    connection->subject = turn_of(subjects, number);
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    connection->begun = calloc((size_t)outstanding + 1, sizeof *connection->begun);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event);
    char *text = room(&connection->out, 1024);
    const char *options = "{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1}";
    int size = sprintf(text, "CONNECT %s\r\n", options);
    if (mode != CORE)
        size += sprintf(text + size, "SUB _INBOX.load%d.%d.* 1\r\n", process, number);
    else if (number > 0)
        size += snprintf(text + size, 512, "SUB %s 1\r\nPING\r\n", connection->subject);
    connection->out.end += (size_t)size;
}

// --- what is asked -------------------------------------------------------------------------------------------------------

static void ask_one(Connection *connection, int slot)
{
    char reply[64];
    snprintf(reply, sizeof reply, "_INBOX.load%d.%d.%d", process, connection->number, slot);
    connection->begun[slot] = now_ns();
    publish(connection, connection->subject, reply, payload, payload_size);
}

static void ask_batch(Connection *connection)
{
    char to[512], reply[64], body[256];
    int size;
    snprintf(reply, sizeof reply, "_INBOX.load%d.%d.f", process, connection->number);
    if (mode == MQ9) {
        snprintf(to, sizeof to, "$mq9.AI.MSG.FETCH.%s", connection->subject);
        size = snprintf(body, sizeof body,
            "{\"group_name\":\"g\",\"deliver\":\"earliest\",\"config\":{\"num_msgs\":%d,\"max_wait_ms\":900,\"stream\":true}}",
            outstanding);
    } else {
        snprintf(to, sizeof to, "$JS.API.CONSUMER.MSG.NEXT.%s", connection->subject);
        size = snprintf(body, sizeof body, "{\"batch\":%d,\"expires\":900000000}", outstanding);
    }
    connection->in_batch = 0;
    connection->begun[0] = now_ns();
    publish(connection, to, reply, body, (size_t)size);
}

static void acknowledge(Connection *connection)
{
    char to[512], reply[64], body[64] = "+ACK";
    snprintf(reply, sizeof reply, "_INBOX.load%d.%d.a", process, connection->number);
    if (mode == MQ9) {
        snprintf(to, sizeof to, "$mq9.AI.MSG.ACK.%s", connection->subject);
        snprintf(body, sizeof body, "{\"group_name\":\"g\",\"msg_id\":%.20s}", connection->last);
    } else {
        snprintf(to, sizeof to, "%s", connection->last);
    }
    publish(connection, to, reply, body, strlen(body));
}

// --- what is answered ----------------------------------------------------------------------------------------------------

static bool has(const char *data, size_t size, const char *text)
{
    return memmem(data, size, text, strlen(text)) != NULL;
}

static void complain(const Message *message)
{
    if (errors++ == 0)
        snprintf(first_error, sizeof first_error, "%.*s%.*s", (int)(message->header_size < 100 ? message->header_size : 100),
            message->header, (int)(message->payload_size < 120 ? message->payload_size : 120), message->payload);
}

static void answered(Connection *connection, const Message *message)
{
    const char *dot = memrchr(message->subject, '.', message->subject_size);
    int slot = atoi(dot + 1);
    if (!has(message->payload, message->payload_size, good))
        complain(message);
    record_since(connection->begun[slot]);
    messages++;
    if (last_message < deadline)
        ask_one(connection, slot);
}

static void keep(Connection *connection, const char *text, size_t size)
{
    if (size >= sizeof connection->last)
        size = sizeof connection->last - 1;
    memcpy(connection->last, text, size);
    connection->last[size] = 0;
}

static void batch_ended(Connection *connection)
{
    if (connection->in_batch > 0)
        acknowledge(connection);
    else if (messages < wanted && now_ns() < deadline)
        ask_batch(connection);
}

static void pulled(Connection *connection, const Message *message)
{
    char kind = message->subject[message->subject_size - 1];
    bool is_status = message->header_size > 12 && message->header[8] == ' ';
    if (mode == MQ9 && kind == 'f' && is_status) {
        batch_ended(connection);
    } else if (mode == JETSTREAM && is_status) {
        batch_ended(connection); // 404, 408: nothing more in time
    } else if (kind == 'a') {
        if (mode == MQ9 && !has(message->payload, message->payload_size, "\"error\":\"\""))
            complain(message);
        messages += (uint64_t)connection->in_batch;
        record_since(connection->begun[0]);
        if (messages < wanted && last_message < deadline)
            ask_batch(connection);
    } else if (mode == MQ9) {
        const char *id = memmem(message->header, message->header_size, "mq9-msg-id: ", 12);
        if (id == NULL) {
            complain(message);
            return;
        }
        connection->in_batch++;
        keep(connection, id + 12, strspn(id + 12, "0123456789"));
    } else {
        connection->in_batch++;
        keep(connection, message->reply, message->reply_size);
        if (connection->in_batch == outstanding)
            batch_ended(connection);
    }
}

// --- core publish and subscribe ------------------------------------------------------------------------------------------

enum { BLOCK = 1 << 16 };
static uint64_t published;
static int subscribers, listening; // how many there are; how many have heard that their SUB was taken

// Let the publisher (connection 0) say as much as it may.
static void publish_more(Connection *all)
{
    uint64_t slowest = UINT64_MAX;
    for (int number = 1; number <= subscribers; number++)
        if (all[number].received < slowest)
            slowest = all[number].received;
    Buffer *out = &all[0].out;
    while (out->end - out->start < BLOCK && published < slowest + (uint64_t)outstanding && now_ns() < deadline) {
        char *text = room(out, payload_size + 600);
        int head = snprintf(text, 560, "PUB %s %zu\r\n", all[0].subject, payload_size);
        memcpy(text + head, payload, payload_size);
        memcpy(text + head + (int)payload_size, "\r\n", 2);
        out->end += (size_t)head + payload_size + 2;
        published++;
    }
}

// --- reading -------------------------------------------------------------------------------------------------------------

// Reads one protocol unit at `text`; its size, or 0 when it is not all there yet.
static size_t read_unit(Connection *connection, const char *text, size_t size)
{
    const char *end = memmem(text, size, "\r\n", 2);
    if (end == NULL)
        return 0;
    size_t line = (size_t)(end - text) + 2;
    bool with_header = text[0] == 'H';
    if (!with_header && text[0] != 'M') {
        if (text[0] == '-')
            die("the server said %.*s", (int)(line - 2), text);
        if (text[0] == 'P' && text[1] == 'I') {
            memcpy(room(&connection->out, 6), "PONG\r\n", 6);
            connection->out.end += 6;
        }
        listening += mode == CORE && text[0] == 'P' && text[1] == 'O';
        return line;
    }
    const char *words[6];
    int count = 0;
    for (const char *at = text; at < end && count < 6; at = (at = memchr(at, ' ', (size_t)(end - at))) ? at + 1 : end)
        words[count++] = at;
    size_t total = strtoul(words[count - 1], NULL, 10);
    size_t header = with_header ? strtoul(words[count - 2], NULL, 10) : 0;
    if (size < line + total + 2)
        return 0;
    bool has_reply = count == (with_header ? 6 : 5);
    Message message = {
        .subject = words[1], .subject_size = (size_t)(words[2] - words[1]) - 1,
        .reply = has_reply ? words[3] : "", .reply_size = has_reply ? (size_t)(words[4] - words[3]) - 1 : 0,
        .header = text + line, .header_size = header,
        .payload = text + line + header, .payload_size = total - header,
    };
    if (mode == CORE) {
        connection->received++;
        messages++;
    } else if (mode == SEND)
        answered(connection, &message);
    else
        pulled(connection, &message);
    return line + total + 2;
}

static void readable(Connection *connection)
{
    Buffer *in = &connection->in;
    ssize_t got = read(connection->fd, room(in, 1 << 17), 1 << 17);
    if (got <= 0 && !(got < 0 && errno == EAGAIN))
        die("the server closed a connection");
    in->end += got > 0 ? (size_t)got : 0;
    size_t used;
    while (in->start < in->end && (used = read_unit(connection, in->bytes + in->start, in->end - in->start)) > 0)
        in->start += used;
}

int main(int argc, char **argv)
{
    if (argc != 9 && argc != 8)
        die("see the top of load.c");
    mode = strcmp(argv[1], "send") == 0 ? SEND : strcmp(argv[1], "mq9") == 0 ? MQ9 : strcmp(argv[1], "core") == 0 ? CORE : JETSTREAM;
    int count = atoi(argv[4]);
    double seconds = atof(argv[7]);
    outstanding = atoi(argv[5]);
    wanted = mode == MQ9 || mode == JETSTREAM ? strtoull(argv[6], NULL, 10) : UINT64_MAX;
    if (mode == SEND || mode == CORE) {
        payload_size = strtoul(argv[6], NULL, 10);
        payload = malloc(payload_size + 1);
        memset(payload, 'x', payload_size);
        good = mode == SEND ? argv[8] : "";
    }
    if (mode == CORE)
        subscribers = count++; // and the publisher
    process = (int)getpid();
    epoll_fd = epoll_create1(0);
    Connection *connections = calloc((size_t)count, sizeof *connections);
    for (int number = 0; number < count; number++)
        open_connection(&connections[number], number, argv[2], argv[3]);
    uint64_t begun = now_ns();
    deadline = begun + (uint64_t)(seconds * 1e9);
    for (int number = 0; number < count; number++) {
        for (int slot = 0; mode == SEND && slot < outstanding; slot++)
            ask_one(&connections[number], slot);
        if (mode == MQ9 || mode == JETSTREAM)
            ask_batch(&connections[number]);
        flush(&connections[number]);
    }
    // The last requests may take a while: a second more than was asked for, no longer.
    while (now_ns() < deadline + 1000000000u && messages < wanted && (now_ns() < deadline || mode == MQ9 || mode == JETSTREAM)) {
        struct epoll_event events[256];
        if (mode == CORE && listening == subscribers) {
            publish_more(connections);
            flush(&connections[0]);
        }
        int ready = epoll_wait(epoll_fd, events, 256, 100);
        for (int index = 0; index < ready; index++) {
            Connection *connection = events[index].data.ptr;
            if (events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                readable(connection);
            flush(connection);
        }
        if (mode == CORE && ready > 0)
            last_message = now_ns();
    }
    double took = (double)(last_message - begun) / 1e9;
    printf("{\"messages\":%llu,\"seconds\":%.3f,\"rate\":%.0f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f,\"errors\":%llu",
        (unsigned long long)messages, took, took > 0 ? (double)messages / took : 0, quantile_us(0.5), quantile_us(0.99),
        quantile_us(0.999), (unsigned long long)errors);
    if (errors > 0) {
        fputs(",\"first_error\":\"", stdout);
        for (const char *at = first_error; *at; at++)
            putchar(*at == '"' || *at == '\\' || *at < ' ' ? '\'' : *at);
        putchar('"');
    }
    puts("}");
    return 0;
}
