/* The server's side of TLS: its certificate and key, and what is wrong with them. */
#ifndef SV_TRANSPORT_WS_TLS_H
#define SV_TRANSPORT_WS_TLS_H

/* The order of an SSL_CTX's ciphers, on both sides. */
void sv_ws_tls_prefer(void *ssl_ctx);

/* Gives an SSL_CTX the chain and the key (PEM text), and TLS 1.2 as its oldest version. NULL, or the fault as "field: words". */
const char *sv_ws_tls_use(void *ssl_ctx, const char *chain, const char *key);

/* The fault that sv_ws_tls_use would find. */
const char *sv_ws_tls_check(const char *chain, const char *key);

#endif
