/* Packets as QUIC datagrams (protocol.md, "What goes where on QUIC"): a super-packet is cut into segments, each a datagram of its own. What the
 * window refuses is kept, sealed, and goes first once it opens: counters have no gaps but for what the path has lost. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/core.h"
#include "engine/mtu.h"
#include "packet/gso.h"

enum {
    DATAGRAM_MOST = 9216 + SV_DATAGRAM_OVERHEAD, /* bytes */
    STREAMED_FLOWS = 64,                         /* remembered; a newer one takes an older one's place */
    SETTLE_MS = 1500,                            /* so long a new path may still prove larger */
};

/* So long after its last packet that fits no datagram a flow stays on the stream: on both at once its order would be lost. */
static const uint64_t STREAMED_NS = SV_NS_PER_S;

struct sv_cut {
    struct sv_buf *held;   /* sealed, refused by the window; NULL */
    struct sv_buf *packet; /* what it was sealed from */
    struct sv_buf *super;  /* the rest of it from `next` on waits; NULL */
    struct sv_gso it;
    size_t next;
    struct {
        uint32_t flow;
        uint64_t until; /* ns */
    } streamed[STREAMED_FLOWS];
};

int sv_cut_new(struct sv_conn *conn)
{
    conn->cut = calloc(1, sizeof *conn->cut);
    return conn->cut ? 0 : SV_E_NOMEM;
}

void sv_cut_free(struct sv_cut *cut)
{
    if (cut) {
        sv_buf_put(cut->held);
        sv_buf_put(cut->packet);
        sv_buf_put(cut->super);
        free(cut);
    }
}

/* ---- which way ---- */

static size_t most(const struct sv_conn *conn)
{
    size_t fits = sv_mtu_datagram(conn->link);

    return fits < DATAGRAM_MOST - SV_DATAGRAM_OVERHEAD ? fits : DATAGRAM_MOST - SV_DATAGRAM_OVERHEAD;
}

bool sv_cut_takes(struct sv_conn *conn, uint32_t flow, size_t unit)
{
    uint64_t now = conn->worker->loop.now;
    struct sv_cut *cut = conn->cut;

    if (!cut || !conn->link->datagram_max || !sv_session_has_datagrams(&conn->session)) {
        return false;
    }
    if (unit > most(conn)) {
        cut->streamed[flow % STREAMED_FLOWS].flow = flow;
        cut->streamed[flow % STREAMED_FLOWS].until = now + STREAMED_NS;
        return false;
    }
    return cut->streamed[flow % STREAMED_FLOWS].flow != flow ||
           cut->streamed[flow % STREAMED_FLOWS].until < now;
}

bool sv_cut_settling(const struct sv_conn *conn)
{
    return conn->cut && conn->worker->loop.now < conn->link->path_since + SETTLE_MS * SV_NS_PER_MS;
}

bool sv_cut_blocked(const struct sv_conn *conn)
{
    return conn->link->datagrams_blocked || (conn->cut && (conn->cut->held || conn->cut->super));
}

/* ---- sending ---- */

static void count_sent(struct sv_conn *conn, size_t len)
{
    sv_count(&conn->traffic.packets_out, 1);
    sv_count(&conn->traffic.bytes_out, len);
}

static struct sv_buf *copy_of(struct sv_conn *conn, const uint8_t *bytes, size_t len)
{
    struct sv_buf *buf = sv_buf_get(&conn->worker->pool, len);

    if (buf) {
        memcpy(buf->data, bytes, len);
        buf->end = buf->data + len;
    }
    return buf;
}

static void let_go(struct sv_cut *cut)
{
    sv_buf_put(cut->held);
    sv_buf_put(cut->packet);
    cut->held = cut->packet = NULL;
}

static void hold(struct sv_conn *conn, const uint8_t *sealed, size_t sealed_len, const uint8_t *packet,
                 size_t len)
{
    struct sv_cut *cut = conn->cut;

    cut->held = copy_of(conn, sealed, sealed_len);
    cut->packet = copy_of(conn, packet, len);
    if (!cut->held || !cut->packet) {
        let_go(cut);
        sv_count_drop(&conn->traffic, SV_DROP_NORMAL, len);
    }
}

/* false: the window is full; the datagram is kept. */
static bool send_one(struct sv_conn *conn, const uint8_t *packet, size_t len)
{
    uint8_t sealed[DATAGRAM_MOST];
    size_t n = sv_session_seal_datagram(&conn->session, conn->worker->loop.now, sealed, packet, len);
    int error = n ? conn->link->ops->send_datagram(conn->link, sealed, n) : SV_E_CLOSED;

    if (!error) {
        count_sent(conn, len);
    } else if (error == SV_E_AGAIN) {
        hold(conn, sealed, n, packet, len);
    } else {
        sv_count_drop(&conn->traffic, error == SV_E_INVALID ? SV_DROP_TOO_BIG : SV_DROP_NO_ROUTE, len);
    }
    return error != SV_E_AGAIN;
}

/* Headers are written over the end of the payload before, which has gone already. */
static bool send_segments(struct sv_conn *conn)
{
    struct sv_cut *cut = conn->cut;

    while (cut->next < sv_gso_count(&cut->it)) {
        const uint8_t *payload = cut->it.payload + cut->next * cut->it.segment_size;
        uint8_t *packet = (uint8_t *)(uintptr_t)payload - cut->it.headers;
        size_t n = sv_gso_header(&cut->it, cut->next++, packet, &payload);

        n += cut->it.headers;
        if (n > most(conn)) {
            sv_outbound_frame(conn, packet, n);
        } else if (!send_one(conn, packet, n)) {
            return false;
        }
    }
    return true;
}

static void begin_super(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip)
{
    struct sv_cut *cut = conn->cut;
    struct sv_buf *buf = *slot;

    if (sv_gso_init(&cut->it, buf->data, sv_buf_len(buf), ip, buf->kind, buf->segment_size)) {
        sv_count(&conn->traffic.drops[SV_DROP_MALFORMED], 1);
        return;
    }
    cut->next = 0;
    if (!send_segments(conn) && cut->next < sv_gso_count(&cut->it)) {
        *slot = NULL;
        cut->super = buf;
    }
}

void sv_cut_send(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip)
{
    if ((*slot)->kind) {
        begin_super(conn, slot, ip);
    } else {
        send_one(conn, (*slot)->data, sv_buf_len(*slot));
    }
    sv_worker_mark_dirty(conn);
}

/* The path may have become another one meanwhile, which takes less: then the packet goes by the stream. */
static bool send_held(struct sv_conn *conn)
{
    struct sv_cut *cut = conn->cut;
    struct sv_buf *packet = cut->packet;
    int error;

    if (!cut->held) {
        return true;
    }
    error = conn->link->ops->send_datagram(conn->link, cut->held->data, sv_buf_len(cut->held));
    if (error == SV_E_AGAIN) {
        return false;
    }
    if (!error) {
        count_sent(conn, sv_buf_len(packet));
    } else if (error == SV_E_INVALID) {
        sv_outbound_frame(conn, packet->data, sv_buf_len(packet));
    } else {
        sv_count_drop(&conn->traffic, SV_DROP_NO_ROUTE, sv_buf_len(packet));
    }
    let_go(cut);
    return true;
}

void sv_cut_resume(struct sv_conn *conn)
{
    struct sv_cut *cut = conn->cut;

    if (!cut || conn->link->datagrams_blocked || !send_held(conn)) {
        return;
    }
    if (cut->super && (send_segments(conn) || cut->next >= sv_gso_count(&cut->it))) {
        sv_buf_put(cut->super);
        cut->super = NULL;
    }
}
