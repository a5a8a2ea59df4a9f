/* What a running engine tells its owner: drained from a bounded ring behind a file descriptor. */
#ifndef SMARTVPN_EVENT_H
#define SMARTVPN_EVENT_H

#include <smartvpn/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SV_CLIENT_ID_SIZE 129 /* 128 bytes and NUL */
#define SV_ADDR_TEXT_SIZE 64
#define SV_SESSION_ID_SIZE 16
#define SV_REASON_SIZE 256

typedef enum sv_event_type {
    SV_EVENT_NONE = 0,
    SV_EVENT_SESSION_STARTED = 1, /* hub: a client's session is live; id, session are set */
    SV_EVENT_SESSION_ENDED = 2,   /* hub: reason and code say why */
    SV_EVENT_STATE = 3,           /* client: `state` changed; code, reason where it was an end */
    SV_EVENT_SETTINGS = 4,        /* client: addresses, routes, DNS or MTU are new: ask sv_client_settings */
    SV_EVENT_ERROR = 5,           /* something people should know; reason has the words */
    SV_EVENT_LOST = 6,            /* the ring was full: `count` events are missing here */
    SV_EVENT_NETWORK =
        8, /* client, WireGuard device: addresses or routes have changed; count 1: the machine has slept */
    SV_EVENT_GONE = 7, /* WireGuard device: its interface or socket was removed; reason says which */
} sv_event_type;

typedef enum sv_client_state {
    SV_CLIENT_DISCONNECTED = 0,
    SV_CLIENT_CONNECTING = 1, /* transport is being opened */
    SV_CLIENT_HANDSHAKING = 2,
    SV_CLIENT_CONNECTED = 3,
    SV_CLIENT_RECONNECTING = 4, /* the link was lost; comes back by itself with backoff */
    SV_CLIENT_ERROR = 5,        /* ended for good: refused, or a final Disconnect */
} sv_client_state;

typedef struct sv_event {
    sv_event_type type;
    char client_id[SV_CLIENT_ID_SIZE];
    uint8_t session_id[SV_SESSION_ID_SIZE];
    sv_client_state state;
    int code;                    /* Disconnect code of the protocol, or -1 */
    int error;                   /* SV_E_* where an error was the cause, else 0 */
    char reason[SV_REASON_SIZE]; /* printable */
    uint64_t count;
} sv_event;

#ifdef __cplusplus
}
#endif
#endif
