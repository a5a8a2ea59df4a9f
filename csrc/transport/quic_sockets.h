/* The sockets of a client's QUIC connection: they come and go with the machine's networks. */
#ifndef SV_TRANSPORT_QUIC_SOCKETS_H
#define SV_TRANSPORT_QUIC_SOCKETS_H

#include "transport/quic_conn.h"

enum {
    SV_QUIC_SOCKETS = 3, /* in use, being tried, and the one before, which packets may still come to */
    SV_QUIC_NO_SOCKET = -1,
};

struct sv_quic_socket {
    struct sv_quic_sockets *all;
    struct sv_udp udp;
    struct sv_watch *watch; /* NULL: not open */
    int fd;
    uint8_t source[16]; /* our address on the way to the server when it was opened */
};

struct sv_quic_sockets {
    struct sv_quic_conn *conn;
    struct sv_endpoint server;
    struct sv_quic_socket list[SV_QUIC_SOCKETS];
    int current, trying;
    bool unreachable;    /* the network refused to send to the server */
    bool heard;          /* the server has answered */
    bool rebind_waiting; /* until the connection can */
    struct sv_udp_batch *batch;
};

/* All zeros before. SV_E_NOMEM. */
int sv_quic_sockets_init(struct sv_quic_sockets *sockets, struct sv_quic_conn *conn);
void sv_quic_sockets_clear(struct sv_quic_sockets *sockets);

/* A new beginning, towards that address, which nothing was heard of yet. SV_E_UNREACHABLE, SV_E_NOMEM, SV_E_SYSTEM. */
int sv_quic_sockets_aim(struct sv_quic_sockets *sockets, const struct sockaddr_storage *server);
/* From the current socket to the server. */
void sv_quic_sockets_path(ngtcp2_path_storage *path, const struct sv_quic_sockets *sockets);

/* As sv_quic_side_ops has them. */
int sv_quic_sockets_send(struct sv_quic_sockets *sockets, const ngtcp2_path *path, const uint8_t *bytes,
                         size_t len, size_t segment);
void sv_quic_sockets_await_writable(struct sv_quic_sockets *sockets, const ngtcp2_path *path);
void sv_quic_sockets_on_validated(struct sv_quic_sockets *sockets, const ngtcp2_path *path, bool good);

/* The connection, which is open, begins to move to a new socket; where it cannot yet, rebind_waiting stays. */
void sv_quic_sockets_move(struct sv_quic_sockets *sockets);

#endif
