/* A QUIC connection as both sides have it, and what the connections of one side share: a loop, deadlines, a batch that is being sent.
 *
 *   quic_conn.c     lifetime, packets in, time, the link's operations
 *   quic_end.c      how a connection ends, in words
 *   quic_callbacks.c  what ngtcp2 calls while it reads
 *   quic_send.c     packets out, in batches of one size
 *   quic_hole.c     large packets that a path swallows
 *   quic_backlog.c  stream bytes until they are acknowledged
 *   quic_tls.c      GnuTLS; quic_cert.c: certificates
 *   quic_server.c, quic_accept.c   the server's side
 *   quic_client.c, quic_addresses.c, quic_sockets.c   the client's
 */
#ifndef SV_TRANSPORT_QUIC_CONN_H
#define SV_TRANSPORT_QUIC_CONN_H

#include <gnutls/gnutls.h>
#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include "base/heap.h"
#include "io/udp.h"
#include "transport/quic.h"
#include "transport/quic_backlog.h"
#include "transport/quic_hole.h"
#include "transport/quic_tls.h"

enum {
    SV_QUIC_ID = 8,             /* bytes of our connection IDs; the first is the worker's index */
    SV_QUIC_PAYLOAD_MAX = 1472, /* UDP payload of the longest packet sent */
    SV_QUIC_OVERHEAD = 32,      /* of a packet that carries one datagram: header, tag, frame header */
    SV_QUIC_WHY = 160,
};

struct sv_quic_side;
struct sv_quic_conn;

/* What differs between server and client. */
struct sv_quic_side_ops {
    void (*new_id)(struct sv_quic_side *side, ngtcp2_cid *id);
    /* The connection is reached by the ID from now on. */
    int (*add_id)(struct sv_quic_conn *conn, const ngtcp2_cid *id);
    void (*remove_id)(struct sv_quic_conn *conn, const ngtcp2_cid *id);
    void (*reset_token)(struct sv_quic_side *side, const ngtcp2_cid *id, ngtcp2_stateless_reset_token *token);
    /* As sv_udp_send, on the path's socket. */
    int (*send)(struct sv_quic_side *side, const ngtcp2_path *path, const uint8_t *bytes, size_t len,
                size_t segment);
    /* The socket of the path is full: sv_quic_side_writable is to be called once it is not. */
    void (*await_writable)(struct sv_quic_side *side, const ngtcp2_path *path);
    void (*on_handshake)(struct sv_quic_conn *conn);
    void (*on_path_validated)(struct sv_quic_conn *conn, const ngtcp2_path *path, bool good);
    /* Called from inside: the path takes less than it did. NULL: small packets do. */
    void (*on_narrow)(struct sv_quic_conn *conn);
    /* The owner's last callback has been made, what follows frees the connection itself. */
    void (*on_gone)(struct sv_quic_conn *conn);
    /* After each turn of work; NULL: nothing. */
    void (*on_worked)(struct sv_quic_conn *conn);
};

/* Packets of one connection and one path on their way to one system call. */
struct sv_quic_tx {
    uint8_t *bytes;
    size_t len, count;
    size_t segment;             /* bytes of the first; only the last may be shorter */
    bool full;                  /* nothing more fits behind */
    ngtcp2_path_storage path;   /* of what is in it */
    ngtcp2_path_storage next;   /* of the packet that is being written */
    ngtcp2_pkt_info info;       /* the same */
    struct sv_quic_conn *owner; /* NULL: none, and then the batch is empty or stuck */
    bool begun;                 /* a packet of the owner's lies behind `len`, and may take more */
    bool stuck;                 /* the socket is full */
    uint64_t now;               /* ns, of the owner's burst */
    uint64_t turn;              /* of the loop, the burst's */
};

struct sv_quic_side {
    const struct sv_quic_side_ops *ops;
    struct sv_loop *loop;
    bool server;
    struct sv_quic_tls tls;
    struct sv_timer *timer;
    struct sv_heap deadlines;
    uint64_t armed_at; /* when the timer fires: never later than the soonest deadline */
    uint64_t now;      /* ns, never goes back */
    struct sv_quic_tx tx;
    struct sv_quic_blocks blocks;
    struct sv_quic_conn *work; /* those that have something to write or to tell */
    _Atomic uint64_t *broken;  /* where connections are counted whose peers broke the rules; NULL: nowhere */
};

enum sv_quic_pacing { SV_QUIC_PACING_UNDECIDED, SV_QUIC_PACING_ON, SV_QUIC_PACING_OFF };

enum sv_quic_state { SV_QUIC_OPENING, SV_QUIC_OPEN, SV_QUIC_ENDING, SV_QUIC_CLOSED };

/* What is known of a path that nothing paces. */
struct sv_quic_near {
    uint64_t bound;       /* bytes of datagrams in flight; 0: it lost next to nothing yet */
    uint64_t judge_at;    /* ns */
    uint64_t acked, lost; /* datagrams, up to the last judgement */
    bool spared;          /* the next judgement is about what was sent before the last */
};

struct sv_quic_conn {
    struct sv_link link; /* first: the sink's handle */
    struct sv_quic_side *side;
    ngtcp2_conn *quic;
    gnutls_session_t session;
    ngtcp2_crypto_conn_ref ref;
    struct sv_deadline deadline;
    uint64_t give_up_at; /* ns: to be open, or to have ended, by then; SV_NEVER: neither */
    enum sv_quic_state state;
    bool told;            /* on_open was called (server); the client's owner knows the link from the start */
    bool inside;          /* ngtcp2 reads for it just now: nothing may be written */
    bool queued;          /* in the side's work */
    bool datagrams_first; /* in this turn of work */
    bool stream_blocked;  /* by flow control, until the next turn of work */
    bool fin_wanted, fin_sent;
    bool fin_received;
    bool close_wanted; /* asked for from inside */
    bool was_reset;    /* by a peer that has forgotten the connection */
    bool path_refused;
    bool pin_refused;
    enum sv_link_close close_how;
    bool close_due; /* SV_QUIC_CLOSED, and the peer is told once the socket has room, until give_up_at */
    ngtcp2_ccerr last_word; /* what it is told; without a reason in words */
    struct sv_quic_conn *next_work;
    int64_t stream; /* -1: none yet */
    struct sv_quic_backlog backlog;
    uint64_t progress_at; /* ns: when the peer last acknowledged stream bytes, or owed nothing */
    size_t burst;         /* bytes written since the pacer was told */
    enum sv_quic_pacing pacing;
    uint64_t datagrams_in_flight; /* bytes */
    bool near_full;               /* a datagram waits for what is in flight on a near path */
    struct sv_quic_near near;
    struct sv_quic_hole hole;
    const ngtcp2_path *coming_from; /* of the packet that is being read, when it is not the current path */
    struct sv_endpoint allowed;     /* the last other address that the owner has allowed */
    uint64_t allowed_until;         /* ns: then the owner is asked anew, whose rules may have changed */
    const uint8_t *pin;             /* SHA-256 that the peer's certificate must have; NULL: any */
    int fault;                      /* found inside: the connection ends when the packet has been read */
    const char *fault_why;
    int error;
    char why[SV_QUIC_WHY];
};

/* ---- quic_conn.c ---- */

int sv_quic_side_init(struct sv_quic_side *side, struct sv_loop *loop, const struct sv_quic_side_ops *ops);
/* Its connections must be gone. */
void sv_quic_side_clear(struct sv_quic_side *side);
/* Reads the clock. */
uint64_t sv_quic_side_now(struct sv_quic_side *side);
/* Writes what waits, tells owners who may send again, sets deadlines: after everything that came in one go. */
void sv_quic_side_work(struct sv_quic_side *side);
void sv_quic_side_writable(struct sv_quic_side *side);

/* What both sides say of themselves; the settings' pointers are to constants. */
void sv_quic_settings(ngtcp2_settings *settings, uint64_t now);
void sv_quic_params(ngtcp2_transport_params *params, bool server, uint64_t idle_timeout);
/* Of the link what is the same for both sides; quic and session stay NULL. */
void sv_quic_conn_init(struct sv_quic_conn *conn, struct sv_quic_side *side, const struct sv_link_sink *sink,
                       void *owner);
/* After ngtcp2's connection has been made: TLS, the link's addresses. SV_E_NOMEM, SV_E_SYSTEM. */
int sv_quic_conn_start(struct sv_quic_conn *conn, const char *host);
/* One UDP datagram. */
void sv_quic_conn_read(struct sv_quic_conn *conn, const ngtcp2_path *path, const uint8_t *bytes, size_t len);
/* Its deadline follows its state. */
void sv_quic_conn_arm(struct sv_quic_conn *conn);
/* It is in the next work. */
void sv_quic_conn_queue(struct sv_quic_conn *conn);
/* The last callback comes from the timer. error and why as of on_closed; the peer is told nothing. */
void sv_quic_conn_end(struct sv_quic_conn *conn, int error, const char *why);
/* The peer is told, as far as it can be: a full socket is waited for, and the last callback comes up to a second later. */
void sv_quic_conn_fail(struct sv_quic_conn *conn, const ngtcp2_ccerr *ccerr, int error, const char *why);
/* Application error 0 without a reason: what protocol.md has for every end that is not explained. */
void sv_quic_conn_close(struct sv_quic_conn *conn, int error, const char *why);
/* An error of ngtcp2: what the peer is told and the owner reads follows from it. */
void sv_quic_conn_fail_by(struct sv_quic_conn *conn, int quic_error);
/* The socket has room, or may have: what sv_quic_conn_fail could not say is said. */
void sv_quic_conn_say_last_word(struct sv_quic_conn *conn);
/* The last callback, now; a link that is not closed is closed first. The connection is freed when it returns. */
void sv_quic_conn_finish(struct sv_quic_conn *conn);
/* The link's address, MTU and longest datagram follow the path. */
void sv_quic_conn_learn_path(struct sv_quic_conn *conn);
/* What it owns, but for itself. */
void sv_quic_conn_clear(struct sv_quic_conn *conn);

/* ---- quic_path.c ---- */

/* The path that a datagram took. The local address is the one it was sent to, on our port. */
void sv_quic_path_of(ngtcp2_path_storage *path, const struct sv_endpoint *from, uint16_t local_port);
/* Where the path's packets go; its local address is left to the kernel when it is all zeros. */
void sv_quic_endpoint_of(struct sv_endpoint *endpoint, const ngtcp2_path *path);
uint16_t sv_quic_local_port(const ngtcp2_path *path);

/* ---- quic_callbacks.c ---- */

extern const ngtcp2_callbacks sv_quic_callbacks_server, sv_quic_callbacks_client;
/* Asks the owner about a packet's source that is new. false: refused, and the link will close. */
bool sv_quic_allows_path(struct sv_quic_conn *conn);

/* ---- quic_send.c ---- */

/* Handshake, acknowledgements, stream bytes: as much as the peer and the network take now. */
void sv_quic_write(struct sv_quic_conn *conn);
/* 0, SV_E_AGAIN, SV_E_CLOSED (the connection has failed). The length must fit. */
int sv_quic_write_datagram(struct sv_quic_conn *conn, const uint8_t *bytes, size_t len);
/* What waits goes out, and no packet is left begun: before anything but writing is done to the connection. */
void sv_quic_settle(struct sv_quic_conn *conn);
/* The connection's last packet. false: the socket is full, and it is not written or not sent yet. */
bool sv_quic_write_close(struct sv_quic_conn *conn, const ngtcp2_ccerr *ccerr);
/* What waits of it is forgotten. */
void sv_quic_send_forget(struct sv_quic_conn *conn);

#endif
