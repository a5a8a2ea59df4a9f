/* Certificate pinning: the server's certificate is judged inside the TLS handshake, before the first HTTP byte. */
#ifndef SV_TRANSPORT_WS_PIN_H
#define SV_TRANSPORT_WS_PIN_H

#include <stdbool.h>
#include <stdint.h>

struct sv_ws_pin {
    bool set, strict;
    bool refused;     /* what it decided */
    uint8_t hash[32]; /* SHA-256 of the certificate's DER */
    char host[256];   /* without port: its name counts when the chain, not the pin, is what convinces */
};

/* hash NULL: no pin. strict: only a match will do; else a match, or a valid chain for the host. */
void sv_ws_pin_init(struct sv_ws_pin *pin, const uint8_t *hash, bool strict, const char *host);

/* Takes over the verification of an SSL_CTX; pin must outlive it. */
void sv_ws_pin_install(struct sv_ws_pin *pin, void *ssl_ctx);

#endif
