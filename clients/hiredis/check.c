/* hiredis through TLS and a proxy while primaries die: every reply is the one that a single Redis
   would have given, and in the end nothing is lost and nothing is there twice.

       HOLDFAST_CA=FILE HOLDFAST_PASSWORD=... check HOST PORT PREFIX (2 | 3)

   Works until its standard input ends, then reads everything back on a second connection and prints
   what it has done. The first thing that is not as it must be ends it with 1; nothing is ever sent
   again. */

#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Slots are hashes of the names: so many keys are on all of 3 shards. */
#define KEYS 12
/* Commands of one pipeline: some are under way whenever a primary dies. */
#define PIPELINE_PAIRS 100
/* A command that is not answered for so long fails. Failovers take a fraction of a second. */
#define PATIENCE_SECONDS 30

/* What the server must have: the values of the counters, and the tokens in each list. */
struct expected {
    long long counter;
    long long *tokens;
    size_t len, capacity;
};

static struct expected expected[KEYS];
static long long next_token, commands;
static const char *prefix;
static int protocol;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "after %lld commands: ", commands);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* ---- connections and replies ------------------------------------------------------------------ */

/* A reply of the wanted type. */
static redisReply *typed(redisContext *redis, redisReply *reply, int type) {
    commands++;
    if (reply == NULL)
        fail("the connection broke: %s", redis->errstr);
    if (reply->type == REDIS_REPLY_ERROR)
        fail("an error: %s", reply->str);
    if (reply->type != type)
        fail("a reply of type %d instead of %d", reply->type, type);
    return reply;
}

static redisReply *call(redisContext *redis, int type, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    redisReply *reply = redisvCommand(redis, format, arguments);
    va_end(arguments);
    return typed(redis, reply, type);
}

/* The next reply of a pipeline. */
static redisReply *next(redisContext *redis, int type) {
    void *reply = NULL;
    if (redisGetReply(redis, &reply) != REDIS_OK)
        fail("the connection broke: %s", redis->errstr);
    return typed(redis, reply, type);
}

static void expect_integer(redisReply *reply, long long wanted, const char *what) {
    if (reply->integer != wanted)
        fail("%s answered %lld instead of %lld", what, reply->integer, wanted);
    freeReplyObject(reply);
}

static void expect_text(redisReply *reply, const char *wanted, const char *what) {
    if (strcmp(reply->str, wanted) != 0)
        fail("%s answered %s instead of %s", what, reply->str, wanted);
    freeReplyObject(reply);
}

static redisContext *connect_to(const char *host, int port) {
    redisSSLContextError error = REDIS_SSL_CTX_NONE;
    redisSSLOptions tls = {
        .cacert_filename = getenv("HOLDFAST_CA"),
        .verify_mode = REDIS_SSL_VERIFY_PEER,
        .verify_name = host,
    };
    /* Not freed: the process lives as long as its connections. */
    redisSSLContext *context = redisCreateSSLContextWithOptions(&tls, &error);
    if (context == NULL)
        fail("TLS: %s", redisSSLContextGetError(error));
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    redisContext *redis = redisConnectWithTimeout(host, port, patience);
    if (redis == NULL || redis->err)
        fail("cannot connect: %s", redis ? redis->errstr : "no memory");
    if (redisInitiateSSLWithContext(redis, context) != REDIS_OK)
        fail("TLS: %s", redis->errstr);
    redisSetTimeout(redis, patience);
    if (protocol == 3) {
        freeReplyObject(call(redis, REDIS_REPLY_MAP, "HELLO 3 AUTH default %s",
                             getenv("HOLDFAST_PASSWORD")));
    } else {
        expect_text(call(redis, REDIS_REPLY_STATUS, "AUTH %s", getenv("HOLDFAST_PASSWORD")), "OK",
                    "AUTH");
    }
    return redis;
}

/* ---- what both protocols answer, each in its types -------------------------------------------- */

static void check_types(redisContext *redis) {
    int three = protocol == 3;
    expect_text(call(redis, REDIS_REPLY_STATUS, "SET {%s}:s %b", prefix, "a\0b", (size_t)3), "OK",
                "SET");
    redisReply *reply = call(redis, REDIS_REPLY_STRING, "GET {%s}:s", prefix);
    if (reply->len != 3 || memcmp(reply->str, "a\0b", 3) != 0)
        fail("GET answered other bytes than were set");
    freeReplyObject(reply);
    freeReplyObject(call(redis, REDIS_REPLY_NIL, "GET {%s}:missing", prefix));
    expect_integer(call(redis, REDIS_REPLY_INTEGER, "HSET {%s}:h f 1 g 2", prefix), 2, "HSET");
    reply = call(redis, three ? REDIS_REPLY_MAP : REDIS_REPLY_ARRAY, "HGETALL {%s}:h", prefix);
    if (reply->elements != 4)
        fail("HGETALL has %zu elements", reply->elements);
    freeReplyObject(reply);
    expect_integer(call(redis, REDIS_REPLY_INTEGER, "SADD {%s}:e x y", prefix), 2, "SADD");
    reply = call(redis, three ? REDIS_REPLY_SET : REDIS_REPLY_ARRAY, "SMEMBERS {%s}:e", prefix);
    if (reply->elements != 2)
        fail("SMEMBERS has %zu elements", reply->elements);
    freeReplyObject(reply);
    expect_integer(call(redis, REDIS_REPLY_INTEGER, "ZADD {%s}:z 1.5 x", prefix), 1, "ZADD");
    reply = call(redis, three ? REDIS_REPLY_DOUBLE : REDIS_REPLY_STRING, "ZSCORE {%s}:z x", prefix);
    if (strcmp(reply->str, "1.5") != 0 || (three && reply->dval != 1.5))
        fail("ZSCORE answered %s", reply->str);
    freeReplyObject(reply);
    /* An error is a reply, and the connection goes on. */
    reply = redisCommand(redis, "LPUSH {%s}:s x", prefix);
    if (reply == NULL || reply->type != REDIS_REPLY_ERROR ||
        strncmp(reply->str, "WRONGTYPE ", 10) != 0)
        fail("LPUSH to a string is not refused");
    freeReplyObject(reply);
    expect_integer(call(redis, REDIS_REPLY_INTEGER, "DEL {%s}:s {%s}:h {%s}:e {%s}:z", prefix,
                        prefix, prefix, prefix),
                   4, "DEL");
}

/* ---- writes that count ------------------------------------------------------------------------ */

/* The token that is pushed next; noted as pushed. */
static long long push(struct expected *list) {
    if (list->len == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 1024;
        list->tokens = realloc(list->tokens, list->capacity * sizeof *list->tokens);
        if (list->tokens == NULL)
            fail("no memory");
    }
    return list->tokens[list->len++] = next_token++;
}

static void one_by_one(redisContext *redis) {
    for (int key = 0; key < KEYS; key++) {
        struct expected *here = &expected[key];
        expect_integer(call(redis, REDIS_REPLY_INTEGER, "INCR {%s:%d}:c", prefix, key),
                       ++here->counter, "INCR");
        long long token = push(here);
        expect_integer(call(redis, REDIS_REPLY_INTEGER, "RPUSH {%s:%d}:l %lld", prefix, key, token),
                       (long long)here->len, "RPUSH");
    }
}

/* The keys by turns, so that each pipeline spreads over all shards. */
static void pipelined(redisContext *redis) {
    long long counters[PIPELINE_PAIRS], lens[PIPELINE_PAIRS];
    for (int pair = 0; pair < PIPELINE_PAIRS; pair++) {
        int key = pair % KEYS;
        struct expected *here = &expected[key];
        redisAppendCommand(redis, "INCR {%s:%d}:c", prefix, key);
        counters[pair] = ++here->counter;
        redisAppendCommand(redis, "RPUSH {%s:%d}:l %lld", prefix, key, push(here));
        lens[pair] = (long long)here->len;
    }
    for (int pair = 0; pair < PIPELINE_PAIRS; pair++) {
        expect_integer(next(redis, REDIS_REPLY_INTEGER), counters[pair], "INCR in a pipeline");
        expect_integer(next(redis, REDIS_REPLY_INTEGER), lens[pair], "RPUSH in a pipeline");
    }
}

static void transaction(redisContext *redis, int key) {
    struct expected *here = &expected[key];
    redisAppendCommand(redis, "MULTI");
    redisAppendCommand(redis, "INCR {%s:%d}:c", prefix, key);
    redisAppendCommand(redis, "RPUSH {%s:%d}:l %lld", prefix, key, push(here));
    redisAppendCommand(redis, "EXEC");
    here->counter++;
    expect_text(next(redis, REDIS_REPLY_STATUS), "OK", "MULTI");
    expect_text(next(redis, REDIS_REPLY_STATUS), "QUEUED", "INCR in MULTI");
    expect_text(next(redis, REDIS_REPLY_STATUS), "QUEUED", "RPUSH in MULTI");
    redisReply *reply = next(redis, REDIS_REPLY_ARRAY);
    if (reply->elements != 2 || reply->element[0]->integer != here->counter ||
        reply->element[1]->integer != (long long)here->len)
        fail("EXEC has not done what was queued");
    freeReplyObject(reply);
}

/* ---- reading back ----------------------------------------------------------------------------- */

static void read_back(redisContext *redis) {
    for (int key = 0; key < KEYS; key++) {
        struct expected *here = &expected[key];
        char text[32];
        snprintf(text, sizeof text, "%lld", here->counter);
        expect_text(call(redis, REDIS_REPLY_STRING, "GET {%s:%d}:c", prefix, key), text, "GET");
        redisReply *reply =
            call(redis, REDIS_REPLY_ARRAY, "LRANGE {%s:%d}:l 0 -1", prefix, key);
        if (reply->elements != here->len)
            fail("a list has %zu tokens instead of %zu", reply->elements, here->len);
        for (size_t at = 0; at < here->len; at++) {
            if (atoll(reply->element[at]->str) != here->tokens[at])
                fail("token %zu of a list is %s instead of %lld", at, reply->element[at]->str,
                     here->tokens[at]);
        }
        freeReplyObject(reply);
    }
}

static int input_ended(void) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;
    return poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int count, char **arguments) {
    if (count != 5)
        fail("usage: check HOST PORT PREFIX (2 | 3)");
    const char *host = arguments[1];
    int port = atoi(arguments[2]);
    prefix = arguments[3];
    protocol = atoi(arguments[4]);
    redisInitOpenSSL();
    redisContext *redis = connect_to(host, port);
    check_types(redis);
    double longest = 0;
    for (int round = 0; !input_ended(); round++) {
        double before = seconds();
        one_by_one(redis);
        pipelined(redis);
        transaction(redis, round % KEYS);
        double took = seconds() - before;
        longest = took > longest ? took : longest;
    }
    redisContext *other = connect_to(host, port);
    read_back(other);
    printf("%lld commands in RESP%d, none wrong; longest round %.0f ms\n", commands, protocol,
           longest * 1000);
    return 0;
}
