/* WireGuard's four messages as bytes, their MACs and cookies (WireGuard paper, sections 5.4 and 5.3).
 *
 *     initiation  1 0 0 0  sender:4  ephemeral:32  static:48  timestamp:28  mac1:16  mac2:16
 *     response    2 0 0 0  sender:4  receiver:4  ephemeral:32  nothing:16  mac1:16  mac2:16
 *     cookie      3 0 0 0  receiver:4  nonce:24  cookie:32
 *     data        4 0 0 0  receiver:4  counter:8  packet, padded to 16, and its tag
 *
 * Integers are little-endian.
 */
#ifndef SV_PROTO_WG_MESSAGE_H
#define SV_PROTO_WG_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "crypto/keys.h"

enum sv_wg_type {
    SV_WG_NONE, /* not a message: to be dropped */
    SV_WG_INITIATION,
    SV_WG_RESPONSE,
    SV_WG_COOKIE,
    SV_WG_DATA,
};

enum {
    SV_WG_INITIATION_SIZE = 148,
    SV_WG_RESPONSE_SIZE = 92,
    SV_WG_COOKIE_SIZE = 64,
    SV_WG_HANDSHAKE_MAX = SV_WG_INITIATION_SIZE,
    SV_WG_DATA_HEADER = 16,
    SV_WG_DATA_OVERHEAD = 32, /* header and tag; a keepalive is this long */
    SV_WG_PADDING = 16,       /* plaintexts are multiples of it, within the MTU */
    SV_WG_MAC = 16,
    SV_WG_TIMESTAMP = 12,
    SV_WG_NOISE_AT_INITIATION = 8, /* where Noise's message begins in it */
    SV_WG_NOISE_AT_RESPONSE = 12,
};

/* By type and length. */
enum sv_wg_type sv_wg_type(const uint8_t *message, size_t len);

/* The sender index of an initiation or response; the receiver index of the other three. */
static inline uint32_t sv_wg_sender(const uint8_t *message)
{
    return sv_load32le(message + 4);
}

static inline uint32_t sv_wg_receiver(const uint8_t *message)
{
    return sv_load32le(message + (message[0] == SV_WG_RESPONSE ? 8 : 4));
}

static inline uint64_t sv_wg_counter(const uint8_t *data)
{
    return sv_load64le(data + 8);
}

static inline void sv_wg_put_data_header(uint8_t *dst, uint32_t receiver, uint64_t counter)
{
    sv_store32le(dst, SV_WG_DATA);
    sv_store32le(dst + 4, receiver);
    sv_store64le(dst + 8, counter);
}

/* TAI64N: 2^62 + 10 + seconds of Unix time, then nanoseconds, big-endian, so that memcmp compares. The last 24 bits
 * are zero: a grain of 16.8 ms tells nobody more of the clock than it must. */
void sv_wg_timestamp(uint8_t dst[SV_WG_TIMESTAMP], uint64_t unix_ns);

/* ---- MACs ---- */

/* What anybody derives from a static public key: HASH("mac1----" ‖ key), HASH("cookie--" ‖ key). */
struct sv_wg_mac_keys {
    uint8_t mac1[SV_KEY], cookie[SV_KEY];
};

void sv_wg_mac_keys(struct sv_wg_mac_keys *keys, const uint8_t public_key[SV_KEY]);

/* Fills the last 32 bytes of an initiation or response: mac1 for the receiver, mac2 under the cookie (NULL: zeros). */
void sv_wg_put_macs(uint8_t *message, size_t len, const struct sv_wg_mac_keys *receiver,
                    const uint8_t *cookie);
/* An initiation or response that was made for us. Constant-time. */
bool sv_wg_check_mac1(const uint8_t *message, size_t len, const struct sv_wg_mac_keys *own);

/* ---- cookies: who is under load gives them out ---- */

/* The secret changes every two minutes, and cookies of the one before are no good any more. */
struct sv_wg_cookie_jar {
    uint8_t secret[SV_KEY];
    uint64_t made_at; /* ns; 0: there is none yet */
};

/* `source` is the sender's address and port, whatever its form. */
void sv_wg_make_cookie(struct sv_wg_cookie_jar *jar, uint64_t now, const void *source, size_t source_len,
                       uint8_t cookie[SV_WG_MAC]);
bool sv_wg_check_mac2(struct sv_wg_cookie_jar *jar, uint64_t now, const void *source, size_t source_len,
                      const uint8_t *message, size_t len);
/* The reply to a message whose mac1 held: SV_WG_COOKIE_SIZE bytes. */
void sv_wg_write_cookie(uint8_t *dst, const uint8_t *message, size_t len, const struct sv_wg_mac_keys *own,
                        const uint8_t cookie[SV_WG_MAC]);

/* ---- cookies: who gets them ---- */

struct sv_wg_cookie {
    uint8_t value[SV_WG_MAC];
    uint64_t until;               /* ns; before it mac2 is made with the value */
    uint8_t last_mac1[SV_WG_MAC]; /* of what was sent last: the reply is bound to it */
    bool asked;                   /* something was sent since the last reply */
};

/* Takes a cookie reply; `peer` is whose reply it is. SV_E_AUTH changes nothing. */
int sv_wg_read_cookie(struct sv_wg_cookie *cookie, uint64_t now, const uint8_t *message,
                      const struct sv_wg_mac_keys *peer);
/* Finishes a message that goes out: sv_wg_put_macs, and remembers it. */
void sv_wg_finish(struct sv_wg_cookie *cookie, uint64_t now, uint8_t *message, size_t len,
                  const struct sv_wg_mac_keys *peer);

#endif
